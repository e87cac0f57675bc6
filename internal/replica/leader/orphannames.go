package leader

import (
	"context"
	"fmt"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/capture/row"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/sqlite"
)

// tableNames are the names of a table's columns; rowid is empty when the rowid is
// none of them.
type tableNames struct {
	rowid   string
	columns []string
}

// orphanNames names the columns of changes that are about to be undone, as the
// tables are declared at the end of the log. After a power cut the file may lie
// far behind the log: the changes of the schema between them are made up for in
// memory.
type orphanNames struct {
	tables *row.Names
	known  map[string]tableNames
}

func (r *Replica) orphanNames(ctx context.Context) (*orphanNames, error) {
	tables, err := row.NewNames(ctx)
	if err != nil {
		return nil, err
	}
	n := &orphanNames{tables: tables, known: make(map[string]tableNames)}
	if err := n.load(ctx, r); err != nil {
		n.close()
		return nil, fmt.Errorf("read the names of columns: %w", err)
	}
	return n, nil
}

func (n *orphanNames) close() { _ = n.tables.Close() } // It is memory only.

const tablesSQL = `SELECT name, sql FROM sqlite_schema
	WHERE type = 'table' AND rootpage > 0 AND name NOT LIKE '\_skein\_%' ESCAPE '\' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'`

// load reads the tables of the file, as far as it can be read, and follows the
// log from there.
func (n *orphanNames) load(ctx context.Context, r *Replica) error {
	executed := r.executed.get()
	tables, err := r.declaredTables(ctx)
	if err != nil {
		r.log.Info("the names of columns come from the log alone", "err", err)
		executed = 0
	}
	if err := n.tables.Load(tables); err != nil {
		return err
	}
	_, err = r.eachEntry(max(executed, r.changes.Start()-1), func(e *entry.Entry, _ []byte) error { return n.follow(e) })
	return err
}

// follow makes an entry's changes of the schema. One that can't be made, as that
// of a view on what is not known, names nothing.
func (n *orphanNames) follow(e *entry.Entry) error {
	if !holdsRows(e) {
		return nil
	}
	body, _, err := rowsOf(nil, e)
	if err != nil {
		return err
	}
	for c, err := range row.Describe(body) {
		if err != nil {
			return err
		}
		if c.Op == "schema" {
			_ = n.tables.Follow(c.SQL)
		}
	}
	return nil
}

// of names the columns of a table; none if it is not known.
func (n *orphanNames) of(table string) tableNames {
	names, looked := n.known[table]
	if !looked {
		if rowid, columns, err := n.tables.Declared(table); err == nil {
			names = tableNames{rowid, columns}
		}
		n.known[table] = names
	}
	return names
}

// declaredTables reads how the file, which nobody else may read any more,
// declares its tables.
func (r *Replica) declaredTables(ctx context.Context) (map[string]string, error) {
	db := r.file()
	if db == nil {
		return nil, base.Errorf(base.KindUnavailable, "the file is not open")
	}
	tables := make(map[string]string)
	err := withOwn(ctx, db, func(conn *sqlite.Conn) error {
		for row, err := range conn.QueryOwn(tablesSQL) {
			if err != nil {
				return err
			}
			tables[string(row.Column(0).Bytes)] = string(row.Column(1).Bytes)
		}
		return nil
	})
	return tables, err
}
