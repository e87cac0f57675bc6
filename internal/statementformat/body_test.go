package statementformat_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/golden"
	"github.com/skeindb/skein/internal/statementformat"
)

func examples() []statementformat.Body {
	return []statementformat.Body{
		{Hash: statementformat.HashRows([]byte("rows")), Statements: []statementformat.Statement{{SQL: []byte("DELETE FROM t")}}},
		{Hash: statementformat.Hash{1, 2, 3}, Statements: []statementformat.Statement{
			{
				SQL: []byte("INSERT INTO t VALUES (?1, ?2, ?3, ?4, ?5, random())"), Uses: statementformat.UsesSeed, Seed: statementformat.Seed{9, 8, 7},
				Args: []base.Value{base.IntValue(-70000), base.TextValue("ü"), base.BlobValue([]byte{0, 1}), {Kind: base.Real, Float: 0.5}, {}},
			},
			{
				SQL:   []byte("UPDATE t SET a = last_insert_rowid() + changes() + total_changes(), at = CURRENT_TIMESTAMP"),
				Uses:  statementformat.UsesClock | statementformat.UsesLastRowID | statementformat.UsesChanges | statementformat.UsesTotalChanges,
				Clock: 1_700_000_000_123, LastRowID: -5, Changes: 1, TotalChanges: 1 << 40,
			},
		}},
		{Reason: "LIMIT without ORDER BY", Rows: []byte("a row body")},
	}
}

// TestGolden pins the bytes.
func TestGolden(t *testing.T) {
	var b strings.Builder
	for _, body := range examples() {
		b.WriteString(hex.EncodeToString(statementformat.Append(nil, &body)) + "\n")
	}
	kept := golden.Check(t, "testdata/v1.golden", b.String())
	for i, line := range strings.Fields(kept) {
		body, _ := hex.DecodeString(line)
		got, err := statementformat.Decode(body)
		if err != nil || !reflect.DeepEqual(*got, examples()[i]) {
			t.Errorf("line %d: %+v, %v", i+1, got, err)
		}
	}
}

// TestCut checks that no beginning of a body is one.
func TestCut(t *testing.T) {
	for i, body := range examples()[:2] {
		whole := statementformat.Append(nil, &body)
		for n := range len(whole) {
			if got, err := statementformat.Decode(whole[:n]); !errors.Is(err, statementformat.ErrCorrupt) {
				t.Errorf("body %d: %d of %d bytes: %+v, %v", i, n, len(whole), got, err)
			}
		}
	}
}

// FuzzDecode checks that bytes decode to what encodes to them, or not at all.
func FuzzDecode(f *testing.F) {
	for _, body := range examples() {
		f.Add(statementformat.Append(nil, &body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := statementformat.Decode(body)
		if err == nil && !bytes.Equal(statementformat.Append(nil, got), body) {
			t.Errorf("%x decodes to %+v", body, got)
		}
	})
}
