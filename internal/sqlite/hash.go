package sqlite

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"math"
	"strings"

	"github.com/skeindb/skein/internal/base"
)

// ContentHash returns a hash of what the database holds: the schema, and every
// row of every table with its rowid and exact storage classes, the
// AUTOINCREMENT counters included. Two replicas with equal content have equal
// hashes however their pages lie. Left out are our own objects, what ANALYZE
// has gathered, and values that are computed when read.
func (d *Database) ContentHash(ctx context.Context) (string, error) {
	s, err := d.Snapshot(ctx)
	if err != nil {
		return "", err
	}
	sum, err := s.ContentHash()
	return sum, errors.Join(err, s.Close())
}

func contentHash(c *Conn) (string, error) {
	h := &contentHasher{conn: c, sum: sha256.New()}
	if err := h.schema(); err != nil {
		return "", fmt.Errorf("hash the schema: %w", err)
	}
	for _, t := range h.tables {
		if err := h.table(t); err != nil {
			return "", fmt.Errorf("hash table %s: %w", t.name, err)
		}
	}
	return hex.EncodeToString(h.sum.Sum(nil)), nil
}

type hashedTable struct {
	name         string
	withoutRowID bool
}

type contentHasher struct {
	conn   *Conn
	sum    hash.Hash
	buffer []byte
	tables []hashedTable
}

// each calls f for every row of a query.
func (h *contentHasher) each(sql string, f func(row []base.Value) error, args ...base.Value) error {
	s, err := h.conn.prepare(sql, GuardOwn)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.BindAll(args); err != nil {
		return err
	}
	var row []base.Value
	for {
		more, err := s.Step()
		if err != nil || !more {
			return err
		}
		row = s.AppendRow(row[:0])
		if err := f(row); err != nil {
			return err
		}
	}
}

// row adds a row in a form that no other row has.
func (h *contentHasher) row(values []base.Value) error {
	b := binary.AppendUvarint(h.buffer[:0], uint64(len(values)))
	for _, v := range values {
		b = append(b, byte(v.Kind))
		switch v.Kind {
		case base.Integer:
			b = binary.BigEndian.AppendUint64(b, uint64(v.Int))
		case base.Real:
			b = binary.BigEndian.AppendUint64(b, math.Float64bits(v.Float))
		case base.Text, base.Blob:
			b = binary.AppendUvarint(b, uint64(len(v.Bytes)))
			b = append(b, v.Bytes...)
		}
	}
	h.buffer = b
	_, err := h.sum.Write(b)
	return err
}

const ownPattern = `'\_skein\_%' ESCAPE '\'`

// schema adds what is declared and lists the tables that hold rows.
func (h *contentHasher) schema() error {
	err := h.each(`SELECT type, name, tbl_name, sql FROM sqlite_schema
		WHERE name NOT LIKE `+ownPattern+` AND tbl_name NOT LIKE `+ownPattern+`
		AND name NOT LIKE 'sqlite\_stat%' ESCAPE '\' AND name <> 'sqlite_sequence' ORDER BY type, name`, h.row)
	if err != nil {
		return err
	}
	return h.each(`SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow')
		AND name NOT LIKE `+ownPattern+` AND name NOT LIKE 'sqlite\_stat%' ESCAPE '\' AND name <> 'sqlite_schema' ORDER BY name`,
		func(row []base.Value) error {
			h.tables = append(h.tables, hashedTable{name: string(row[0].Bytes), withoutRowID: row[1].Int != 0})
			return nil
		})
}

func (h *contentHasher) table(t hashedTable) error {
	if err := h.row([]base.Value{base.TextValue("table"), base.TextValue(t.name)}); err != nil {
		return err
	}
	if t.name == "sqlite_sequence" {
		return h.each(`SELECT name, seq FROM sqlite_sequence WHERE name NOT LIKE `+ownPattern+` ORDER BY name, seq`, h.row)
	}
	query, err := h.query(t)
	if err != nil {
		return err
	}
	return h.each(query, h.row)
}

// query selects every stored column, and the rowid under whichever of its
// names no column has taken, in the order of the key.
func (h *contentHasher) query(t hashedTable) (string, error) {
	var columns, key []string
	taken := map[string]bool{}
	err := h.each(`SELECT name, hidden, pk FROM pragma_table_xinfo(?) ORDER BY pk, cid`, func(row []base.Value) error {
		name := string(row[0].Bytes)
		taken[strings.ToLower(name)] = true
		if hidden := row[1].Int; hidden == 0 || hidden == 3 {
			columns = append(columns, QuoteName(name))
		}
		if row[2].Int != 0 {
			key = append(key, QuoteName(name)+" COLLATE BINARY")
		}
		return nil
	}, base.TextValue(t.name))
	if err != nil {
		return "", err
	}
	order := strings.Join(key, ", ")
	if !t.withoutRowID {
		order = ""
		for _, name := range []string{"rowid", "_rowid_", "oid"} {
			if !taken[name] {
				order = name
				columns = append([]string{name}, columns...)
				break
			}
		}
	}
	if order == "" { // all names of the rowid are taken; it cannot be read
		order = strings.Join(columns, " COLLATE BINARY, ") + " COLLATE BINARY"
	}
	return "SELECT " + strings.Join(columns, ", ") + " FROM " + QuoteName(t.name) + " ORDER BY " + order, nil
}

// QuoteName quotes an identifier for use in SQL.
func QuoteName(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}
