package leader

import (
	"context"
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/sqlite"
)

// Every copy of a database remembers how its tables were declared at each
// position that its log reaches back to, in the transaction of the change: the
// log's rows have no names, and are read by the names of their own time. Rows
// are deltas, one for each table that a transaction has changed; sql is NULL
// when it was dropped. The row with the empty name says from where on the
// history is whole.
const (
	createSchemaSQL = `CREATE TABLE IF NOT EXISTS _skein_schema (
	name TEXT NOT NULL, seq INTEGER NOT NULL, sql TEXT, PRIMARY KEY (name, seq)) WITHOUT ROWID`
	countSchemaSQL = "SELECT count(*) FROM sqlite_schema WHERE name = '_skein_schema'"
	beginSchemaSQL = "INSERT INTO _skein_schema VALUES ('', ?1, NULL)"
	addSchemaSQL   = `INSERT OR REPLACE INTO _skein_schema
	SELECT s.name, ?1, s.sql FROM main.sqlite_schema s
	WHERE s.type = 'table' AND s.rootpage > 0 AND s.name NOT LIKE '\_skein\_%' ESCAPE '\' AND s.name NOT LIKE 'sqlite\_%' ESCAPE '\'
	AND s.sql IS NOT (SELECT h.sql FROM _skein_schema h WHERE h.name = s.name ORDER BY h.seq DESC LIMIT 1)`
	dropSchemaSQL = `INSERT OR REPLACE INTO _skein_schema
	SELECT h.name, ?1, NULL FROM (SELECT name, sql, max(seq) FROM _skein_schema WHERE name <> '' GROUP BY name) h
	WHERE h.sql IS NOT NULL AND NOT EXISTS (SELECT 1 FROM main.sqlite_schema s WHERE s.type = 'table' AND s.name = h.name)`
	// What was replaced or dropped before the log begins names nothing in it.
	pruneSchemaSQL = `DELETE FROM _skein_schema AS h WHERE name <> '' AND seq < ?1 AND (sql IS NULL
	OR EXISTS (SELECT 1 FROM _skein_schema n WHERE n.name = h.name AND n.seq > h.seq AND n.seq < ?1))`
	moveSchemaSQL = "UPDATE _skein_schema SET seq = ?1 - 1 WHERE name = '' AND seq < ?1 - 1"
	schemaAtSQL   = `SELECT name, sql, max(seq) FROM _skein_schema WHERE seq <= ?1 AND name <> '' GROUP BY name`
	schemaFromSQL = "SELECT seq FROM _skein_schema WHERE name = ''"
)

// beginSchemaHistory makes the table where it is missing: the history then
// begins at seq, where the file stands.
func beginSchemaHistory(conn *sqlite.Conn, seq base.Seq) error {
	n, err := ownInteger(conn, countSchemaSQL)
	if err != nil || n > 0 {
		return err
	}
	if err := conn.BeginImmediate(); err != nil {
		return err
	}
	if err = conn.Exec(createSchemaSQL); err == nil {
		err = conn.RunOwn(beginSchemaSQL, base.IntValue(int64(seq)))
	}
	if err == nil {
		err = noteSchema(conn, seq, 0)
	}
	if err == nil {
		err = conn.Commit()
	}
	if err != nil {
		_ = conn.Rollback() // It repeats what the failure has done.
		return fmt.Errorf("begin the history of the schema: %w", err)
	}
	return nil
}

// noteSchema remembers the tables as they are after seq, in the transaction
// that is open, and forgets what the log no longer reaches.
func noteSchema(conn *sqlite.Conn, seq, logStart base.Seq) error {
	at, start := base.IntValue(int64(seq)), base.IntValue(int64(logStart))
	for _, step := range []struct {
		sql string
		arg base.Value
	}{{dropSchemaSQL, at}, {addSchemaSQL, at}, {pruneSchemaSQL, start}, {moveSchemaSQL, start}} {
		if err := conn.RunOwn(step.sql, step.arg); err != nil {
			return fmt.Errorf("remember the schema at %d: %w", seq, err)
		}
	}
	return nil
}

// schemaAt returns how tables were declared after seq, and from where on that is
// known.
func schemaAt(conn *sqlite.Conn, seq base.Seq) (tables map[string]string, from base.Seq, err error) {
	begin, err := ownInteger(conn, schemaFromSQL)
	from = base.Seq(begin)
	if err != nil || seq < from {
		return nil, from, err
	}
	tables = make(map[string]string)
	for row, err := range conn.QueryOwn(schemaAtSQL, base.IntValue(int64(seq))) {
		if err != nil {
			return nil, from, err
		}
		if sql := row.Column(1); sql.Kind == base.Text {
			tables[string(row.Column(0).Bytes)] = string(sql.Bytes)
		}
	}
	return tables, from, nil
}

func ownInteger(conn *sqlite.Conn, sql string) (int64, error) {
	st, err := conn.PrepareOwn(sql)
	if err != nil {
		return 0, err
	}
	defer st.Close()
	if _, err := st.Step(); err != nil {
		return 0, err
	}
	return st.Column(0).Int, nil
}

// schemaAt reads the history from this replica's file.
func (r *Replica) schemaAt(ctx context.Context, seq base.Seq) (tables map[string]string, from base.Seq, err error) {
	err = r.readOwn(ctx, func(conn *sqlite.Conn) (err error) {
		tables, from, err = schemaAt(conn, seq)
		return err
	})
	return tables, from, err
}
