package rowformat

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/golden"
)

// story holds one record of every kind and one value of every serial type.
func story() *Buffer {
	b := &Buffer{}
	person := b.Register(Table{Name: "person", Columns: 3})
	couple := b.Register(Table{Name: "pair", Columns: 3, Key: []int{2, 0}})
	id := b.Register(Table{Name: "id", Columns: 0})
	stat := b.Register(Table{Name: "sqlite_stat1", Columns: 2})

	b.Schema("CREATE TABLE person(id INTEGER PRIMARY KEY, name, age, photo)", 0x1122334455667788, false)
	b.BeginInsert(person, 1)
	b.Value(base.TextValue("Ada"))
	b.Value(base.IntValue(36))
	b.Value(base.BlobValue([]byte{0, 0xff}))
	b.End()
	b.BeginUpdate(person, 1, 1)
	pair(b, base.TextValue("Ada"), base.TextValue("Ad\xffa"))
	pair(b, base.IntValue(36), base.RealValue(36))
	pair(b, base.Value{}, base.Value{})
	b.End()
	b.BeginUpdate(person, 1, -300)
	for range 3 {
		pair(b, base.RealValue(math.Copysign(0, -1)), base.RealValue(math.Copysign(0, -1)))
	}
	b.End()
	b.BeginUpdate(person, 5, 5) // Changes nothing: is dropped.
	for range 3 {
		pair(b, base.IntValue(0), base.IntValue(0))
	}
	b.End()
	b.BeginInsert(couple, 99)
	b.Value(base.IntValue(math.MinInt64))
	b.Value(base.IntValue(-129))
	b.Value(base.IntValue(1))
	b.End()
	b.BeginDelete(couple, 0)
	b.Value(base.IntValue(1 << 20))
	b.Value(base.IntValue(1 << 40))
	b.Value(base.IntValue(-1 << 30))
	b.End()
	b.BeginDelete(id, math.MaxInt64)
	b.End()
	b.Sequence(base.TextValue("person"), nil, []SequenceRow{{1, base.IntValue(7)}})
	b.Statistics(stat, []StatisticsRow{{1, []base.Value{base.TextValue("person"), base.TextValue("1")}}})
	b.Schema("REINDEX", 0, true)
	return b
}

func pair(b *Buffer, before, after base.Value) {
	b.Before(before)
	b.After(after)
}

func TestGolden(t *testing.T) {
	body := story().Body(Mark{})
	golden.Check(t, "testdata/body.golden", hex.Dump(body)+"\n"+render(t, body))
}

// render decodes a body into text.
func render(t testing.TB, body []byte) string {
	r, err := NewReader(body)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for r.Next() {
		out.WriteString(line(r.Record()))
	}
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	return out.String()
}

func line(r *Record) string {
	s := r.Kind.String()
	if r.Table != nil {
		s += fmt.Sprintf(" %s%v", r.Table.Name, r.Table.Key)
	}
	switch r.Kind {
	case Schema:
		return fmt.Sprintf("%s %q hash %x inert %v\n", s, r.SQL, r.Hash, r.Inert)
	case Sequence:
		return fmt.Sprintf("%s %s before %v after %v\n", s, r.Name.Bytes, r.Before, r.After)
	case Statistics:
		return fmt.Sprintf("%s %d rows\n", s, len(r.Rows))
	}
	return fmt.Sprintf("%s %d->%d old %s new %s changed %x\n", s, r.RowID, r.NewRowID, values(r.Old), values(r.New), r.Changed)
}

func values(vs []base.Value) string {
	var s []string
	for _, v := range vs {
		switch v.Kind {
		case base.Null:
			s = append(s, "null")
		case base.Integer:
			s = append(s, fmt.Sprint(v.Int))
		case base.Real:
			s = append(s, fmt.Sprintf("%#x", math.Float64bits(v.Float)))
		case base.Text:
			s = append(s, fmt.Sprintf("%q", v.Bytes))
		case base.Blob:
			s = append(s, fmt.Sprintf("x'%x'", v.Bytes))
		}
	}
	return "(" + strings.Join(s, ", ") + ")"
}

func TestBackwardIsTheReverse(t *testing.T) {
	body := story().Body(Mark{})
	forwards := strings.SplitAfter(render(t, body), "\n")
	r, _ := NewReader(body)
	var back []string
	for rec := range r.Backward() {
		back = append(back, line(rec))
	}
	slices.Reverse(back)
	if strings.Join(back, "") != strings.Join(forwards, "") || r.Err() != nil {
		t.Errorf("backwards: %v %q", r.Err(), back)
	}
	r, _ = NewReader(body[:len(body)-1])
	for range r.Backward() {
		t.Error("a cut body yields records")
	}
	if !errors.Is(r.Err(), ErrCorrupt) {
		t.Errorf("cut body: %v", r.Err())
	}
}

func TestEveryCutIsRefused(t *testing.T) {
	body := story().Body(Mark{})
	for n := range len(body) {
		if err := walk(body[:n]); err == nil {
			t.Errorf("a body cut at %d of %d reads well", n, len(body))
		}
	}
	if err := walk(append(bytes.Clone(body), 0)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a byte too many: %v", err)
	}
}

func walk(body []byte) error {
	r, err := NewReader(body)
	if err != nil {
		return err
	}
	for r.Next() {
	}
	return r.Err()
}

func TestUnknownIsSaidClearly(t *testing.T) {
	if err := walk([]byte{Version + 1, 0, 0}); !errors.Is(err, ErrUnknown) {
		t.Errorf("later version: %v", err)
	}
	if err := walk([]byte{Version, 1, 0, 200, 0}); !errors.Is(err, ErrUnknown) {
		t.Errorf("later kind: %v", err)
	}
}

func TestLengthsAreNotTrusted(t *testing.T) {
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0x0f}
	heads := [][]byte{
		append([]byte{Version}, huge...),
		append([]byte{Version, 1}, huge...),
		append([]byte{Version, 1, 1}, huge...),
		append([]byte{Version, 1, 1, 1, 't'}, huge...),
		append([]byte{Version, 1, 0, byte(Schema), 0, 0, 0, 0, 0, 0, 0, 0, 0}, huge...),
		append([]byte{Version, 1, 0, byte(Sequence), 0}, huge...),
		{Version, 1, 1, 1, 't', 0xff, 0xff, 1, 0, byte(Insert), 0, 2},
		append([]byte{Version, 1, 1, 1, 't', 0, 0, byte(Statistics), 0}, huge...),
	}
	for _, h := range heads {
		n := testing.AllocsPerRun(1, func() {
			if err := walk(h); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%x: %v", h, err)
			}
		})
		if n > 50 {
			t.Errorf("%x: %v allocations", h, n)
		}
	}
}

func anyValue() *rapid.Generator[base.Value] {
	return rapid.Custom(func(t *rapid.T) base.Value {
		switch base.ValueKind(rapid.IntRange(0, 4).Draw(t, "kind")) {
		case base.Integer:
			shift := rapid.IntRange(0, 63).Draw(t, "shift")
			return base.IntValue(rapid.Int64().Draw(t, "int") >> shift)
		case base.Real:
			return base.RealValue(math.Float64frombits(rapid.Uint64().Draw(t, "bits")))
		case base.Text:
			return base.Value{Kind: base.Text, Bytes: rapid.SliceOfN(rapid.Byte(), 0, 70).Draw(t, "text")}
		case base.Blob:
			return base.BlobValue(rapid.SliceOfN(rapid.Byte(), 0, 70).Draw(t, "blob"))
		}
		return base.Value{}
	})
}

type change struct {
	kind     Kind
	table    TableID
	from, to int64
	old, new []base.Value
}

// add puts c into b and reports whether it counts.
func (c change) add(b *Buffer) bool {
	switch c.kind {
	case Insert:
		b.BeginInsert(c.table, c.from)
		for _, v := range c.new {
			b.Value(v)
		}
	case Delete:
		b.BeginDelete(c.table, c.from)
		for _, v := range c.old {
			b.Value(v)
		}
	default:
		b.BeginUpdate(c.table, c.from, c.to)
		for i := range c.old {
			pair(b, c.old[i], c.new[i])
		}
	}
	return b.End()
}

func (c change) check(t *rapid.T, b *Buffer, r *Record) {
	table := b.Table(c.table)
	if r.Table.Name != table.Name || r.Table.Columns != table.Columns || !slices.Equal(r.Table.Key, table.Key) {
		t.Fatalf("table %+v, want %+v", r.Table, table)
	}
	if table.HasRowID() && (r.RowID != c.from || c.kind == Update && r.NewRowID != c.to) {
		t.Fatalf("rowid %d->%d, want %+v", r.RowID, r.NewRowID, c)
	}
	if c.kind == Insert {
		c.old = nil
	}
	if c.kind == Delete {
		c.new = nil
	}
	if !slices.EqualFunc(r.Old, c.old, base.Value.Equal) || !slices.EqualFunc(r.New, c.new, base.Value.Equal) {
		t.Fatalf("values %v %v, want %+v", r.Old, r.New, c)
	}
}

// TestRoundTrip adds changes, rewinds some, and reads what is left.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := &Buffer{}
		for i := range rapid.IntRange(1, 4).Draw(t, "tables") {
			table := Table{Name: rapid.String().Draw(t, "name"), Columns: rapid.IntRange(i%2, 20).Draw(t, "columns")}
			if i%2 == 1 {
				table.Key = rapid.SliceOfNDistinct(rapid.IntRange(0, table.Columns-1), 1, table.Columns, rapid.ID).Draw(t, "key")
			}
			b.Register(table)
		}
		var want []change
		kept, mark := 0, b.Mark()
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				kept, mark = len(want), b.Mark()
			case 1:
				b.Rewind(mark)
				want = want[:kept]
			default:
				c := drawChange(t, b)
				if c.add(b) {
					want = append(want, c)
				}
			}
		}
		compare(t, b, want)
	})
}

func drawChange(t *rapid.T, b *Buffer) change {
	c := change{kind: Kind(rapid.IntRange(1, 3).Draw(t, "kind")), table: TableID(rapid.IntRange(0, len(b.tables)-1).Draw(t, "table"))}
	n := b.Table(c.table).Columns
	c.from, c.to = rapid.Int64().Draw(t, "from"), rapid.Int64Range(0, 3).Draw(t, "to")
	if rapid.Bool().Draw(t, "stay") {
		c.to = c.from
	}
	c.old = rapid.SliceOfN(anyValue(), n, n).Draw(t, "old")
	c.new = slices.Clone(c.old)
	for i := range c.new {
		if rapid.Bool().Draw(t, "changes") {
			c.new[i] = anyValue().Draw(t, "new")
		}
	}
	return c
}

func compare(t *rapid.T, b *Buffer, want []change) {
	r, err := NewReader(b.Body(Mark{}))
	if err != nil || r.Changes() != len(want) || b.Since(Mark{}) != len(want) {
		t.Fatalf("%v: %d changes, want %d", err, r.Changes(), len(want))
	}
	for i := 0; r.Next(); i++ {
		want[i].check(t, b, r.Record())
	}
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
}

func FuzzReader(f *testing.F) {
	f.Add(story().Body(Mark{}))
	f.Add([]byte{Version, 0, 0})
	f.Add([]byte{Version, 1, 0, 200})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := NewReader(body)
		if err != nil {
			return
		}
		n := 0
		for r.Next() {
			_ = line(r.Record())
			n++
		}
		if r.Err() == nil && n != r.Changes() {
			t.Errorf("%d records read, %d announced", n, r.Changes())
		}
		for range r.Backward() {
			n--
		}
		if r.Err() == nil && n != 0 {
			t.Errorf("%d records fewer backwards", n)
		}
	})
}

func account() (*Buffer, TableID, [3]base.Value) {
	b := &Buffer{}
	id := b.Register(Table{Name: "pgbench_accounts", Columns: 3})
	return b, id, [3]base.Value{base.IntValue(7), base.IntValue(-4711), base.TextValue(strings.Repeat(" ", 84))}
}

func BenchmarkEncodeInsert(bench *testing.B) {
	b, id, row := account()
	for i := range bench.N {
		if i%1000 == 0 {
			b.Rewind(Mark{})
		}
		b.BeginInsert(id, int64(i))
		for _, v := range row {
			b.Value(v)
		}
		b.End()
	}
	bench.ReportMetric(float64(b.Size())/float64(b.Since(Mark{})), "B/row")
	bench.ReportAllocs()
}

func fillUpdates(b *Buffer, id TableID, row [3]base.Value, n int) {
	for i := range n {
		b.BeginUpdate(id, int64(i), int64(i))
		for c, v := range row {
			w := v
			if c == 1 {
				w.Int += int64(i) + 1
			}
			pair(b, v, w)
		}
		b.End()
	}
}

func BenchmarkEncodeUpdate(bench *testing.B) {
	b, id, row := account()
	for i := 0; i < bench.N; i += 1000 {
		b.Rewind(Mark{})
		fillUpdates(b, id, row, 1000)
		b.Body(Mark{})
	}
	bench.ReportMetric(float64(len(b.Body(Mark{})))/1000, "B/row")
	bench.ReportAllocs()
}

func BenchmarkDecodeUpdate(bench *testing.B) {
	b, id, row := account()
	fillUpdates(b, id, row, 1000)
	body := b.Body(Mark{})
	r := &Reader{}
	for i := 0; i < bench.N; i += 1000 {
		if err := r.Reset(body); err != nil {
			bench.Fatal(err)
		}
		for r.Next() {
		}
		if r.Err() != nil {
			bench.Fatal(r.Err())
		}
	}
	bench.ReportAllocs()
}
