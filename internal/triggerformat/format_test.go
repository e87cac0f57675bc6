package triggerformat

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/golden"
	"github.com/skeindb/skein/internal/rowformat"
)

// story is a body with a record of every kind.
func story() (rows []byte, sent []Sent) {
	var b rowformat.Buffer
	person := b.Register(rowformat.Table{Name: "person", Columns: 2})
	b.BeginInsert(person, 7)
	b.Value(base.TextValue("Ada"))
	b.Value(base.IntValue(36))
	b.End()
	b.BeginDelete(person, 8)
	b.Value(base.TextValue("Bob"))
	b.Value(base.Value{})
	b.End()
	return b.Body(rowformat.Mark{}), []Sent{
		{Change: 1},
		{Op: Delete, Table: "person", Key: []base.Value{base.IntValue(8)}},
		{Op: Update, Table: "pair", Key: []base.Value{base.TextValue("x"), base.BlobValue([]byte{0, 1})},
			Columns: []Column{{"a", base.RealValue(math.Inf(1))}, {"b", base.Value{}}, {"c", base.IntValue(math.MinInt64)}}},
		{Op: "mailed", Table: "person", Columns: []Column{{"to", base.TextValue("\xff")}}},
		{Op: "ping"},
	}
}

func text(sent []Sent) string {
	var b strings.Builder
	for _, s := range sent {
		fmt.Fprintf(&b, "%d %q %q %v %v\n", s.Change, s.Op, s.Table, s.Key, s.Columns)
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	rows, sent := story()
	kept := golden.Check(t, "testdata/body.golden", hex.EncodeToString(Append(nil, rows, sent))+"\n"+text(sent))
	line, _, _ := strings.Cut(kept, "\n")
	data, err := hex.DecodeString(line)
	if err != nil {
		t.Fatal(err)
	}
	body, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(body.Rows, rows) || body.Changes != 2 || body.Count() != 7 || text(body.Sent) != text(sent) {
		t.Errorf("decoded %+v", body)
	}
}

func TestRefusals(t *testing.T) {
	rows, sent := story()
	whole := Append(nil, rows, sent)
	for i := range whole {
		if _, err := Decode(whole[:i]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("the first %d bytes: %v", i, err)
		}
	}
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"a newer version":       {append([]byte{Version + 1}, whole[1:]...), ErrUnknown},
		"bytes behind it":       {append(bytes.Clone(whole), 0), ErrCorrupt},
		"nothing in it":         {[]byte{Version, 0, 0}, ErrCorrupt},
		"another kind":          {[]byte{Version, 0, 1, 3, 0}, ErrUnknown},
		"a change out of range": {Append(nil, rows, []Sent{{Change: 3}}), ErrCorrupt},
		"a row without a key":   {Append(nil, nil, []Sent{{Op: Insert, Table: "t"}}), ErrCorrupt},
		"a message with a key":  {Append(nil, nil, []Sent{{Op: "x", Key: []base.Value{{}}}}), ErrCorrupt},
		"a long number":         {[]byte{Version, 0x80, 0, 1, kindRow, 0}, ErrCorrupt},
		"a long integer":        {append(Append(nil, nil, nil)[:2], 1, kindRecord, 1, 'x', 0, 0, 1, 0, 1, 1), ErrCorrupt},
		"rows that are none":    {[]byte{Version, 1, 9, 0}, ErrCorrupt},
	} {
		if _, err := Decode(c.data); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestContent(t *testing.T) {
	_, sent := story()
	for _, s := range sent {
		data := AppendContent(nil, s.Key, s.Columns)
		key, columns, err := DecodeContent(data)
		if err != nil || fmt.Sprint(key, columns) != fmt.Sprint(s.Key, s.Columns) {
			t.Errorf("%v %v: %v", key, columns, err)
		}
		if _, _, err := DecodeContent(append(data, 0)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("a byte behind it: %v", err)
		}
	}
}

// FuzzDecode: whatever decodes has exactly one encoding.
func FuzzDecode(f *testing.F) {
	rows, sent := story()
	f.Add(Append(nil, rows, sent))
	f.Add(Append(nil, nil, sent[1:]))
	f.Add(Append(nil, rows, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		body, err := Decode(data)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnknown) {
				t.Fatalf("%v is neither corrupt nor unknown", err)
			}
			return
		}
		if again := Append(nil, body.Rows, body.Sent); !bytes.Equal(again, data) {
			t.Fatalf("%x was read as %x", data, again)
		}
	})
}
