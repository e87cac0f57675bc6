package leader

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/env/crashfs"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/rowformat"
)

var update = flag.Bool("update", false, "write golden files")

var sampleMeta = meta{
	Version: 1, Cluster: 0x1234, Database: 7, Name: "shop", Promised: 5, Led: 3, Copying: true, Reason: "the log is \"corrupt\"", Unproven: true,
}

func disk(t *testing.T) env.FS {
	t.Helper()
	d := crashfs.New()
	if err := errors.Join(d.MkdirAll("/data", 0o700), d.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	return d
}

// The bytes of replica.json are fixed: a newer program reads an older one's.
func TestMetaIsAsDescribed(t *testing.T) {
	f := disk(t)
	if err := writeMeta(f, "/data", sampleMeta); err != nil {
		t.Fatal(err)
	}
	got, err := f.ReadFile("/data/" + metaName)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("testdata/replica.json", got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/replica.json")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %s, want %s (%v)", got, want, err)
	}
	if m, found, err := readMeta(f, "/data"); m != sampleMeta || !found || err != nil {
		t.Errorf("read again: %+v, %v, %v", m, found, err)
	}
}

func put(t testing.TB, f env.FS, data []byte) {
	t.Helper()
	if err := env.WriteFile(f, "/data", metaName, data); err != nil {
		t.Fatal(err)
	}
}

// Any damage is noticed: a replica that forgot its vow could break it.
func TestDamagedMetaIsRefused(t *testing.T) {
	good, err := os.ReadFile("testdata/replica.json")
	if err != nil {
		t.Fatal(err)
	}
	f := disk(t)
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 0x01
		put(t, f, b)
		if m, _, err := readMeta(f, "/data"); err == nil && m != sampleMeta {
			t.Errorf("byte %d flipped: read %+v", i, m)
		}
		put(t, f, good[:i])
		if _, _, err := readMeta(f, "/data"); err == nil {
			t.Errorf("cut after %d bytes: read all the same", i)
		}
	}
	put(t, f, bytes.Replace(good, []byte(`"version":1`), []byte(`"version":2`), 1))
	if _, _, err := readMeta(f, "/data"); base.KindOf(err) != base.KindCorrupt {
		t.Errorf("changed: %v", err)
	}
	if _, found, err := readMeta(f, "/elsewhere"); found || (err != nil && !errors.Is(err, fs.ErrNotExist)) {
		t.Errorf("none there: %v, %v", found, err)
	}
}

func FuzzMeta(f *testing.F) {
	good, err := os.ReadFile("testdata/replica.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"meta":{},"crc32c":0}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := disk(t)
		put(t, d, b)
		m, found, err := readMeta(d, "/data")
		if err != nil {
			return
		}
		if !found || m.Version != 1 {
			t.Fatalf("read %+v, %v", m, found)
		}
		if err := writeMeta(d, "/data", m); err != nil {
			t.Fatal(err)
		}
		if again, _, err := readMeta(d, "/data"); again != m || err != nil {
			t.Fatalf("%+v becomes %+v, %v", m, again, err)
		}
	})
}

// Values of orphaned writes come back bit for bit.
func TestOrphanedValuesComeBack(t *testing.T) {
	value := rapid.Custom(func(t *rapid.T) base.Value {
		switch rapid.IntRange(0, 4).Draw(t, "class") {
		case 0:
			return base.IntValue(rapid.Int64().Draw(t, "int"))
		case 1:
			return base.RealValue(rapid.SampledFrom([]float64{0, math.Copysign(0, -1), 1, 1.5, math.Inf(1), math.Inf(-1), math.MaxFloat64, math.SmallestNonzeroFloat64, 0.1}).Draw(t, "real"))
		case 2:
			return base.TextValue(rapid.SampledFrom([]string{"", "a", "gänse <&>", "\u2028", "\xff\xfe", "a\x00b", "\ufffd"}).Draw(t, "text"))
		case 3:
			return base.BlobValue(rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "blob"))
		}
		return base.Value{}
	})
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(value, 0, 5).Draw(t, "values")
		got, err := unpackValues(packValues(values))
		if err != nil || len(got) != len(values) {
			t.Fatalf("got %v, %v", got, err)
		}
		for i := range values {
			if !got[i].Equal(values[i]) {
				t.Errorf("%v becomes %v", values[i], got[i])
			}
		}
	})
	if got, err := unpackValues(packValues(nil)); got != nil || err != nil {
		t.Errorf("nothing becomes %v, %v", got, err)
	}
}

func TestOrphanedValuesAreAsDescribed(t *testing.T) {
	values := []base.Value{base.IntValue(-7), base.RealValue(1.5), base.TextValue("gänse"), base.TextValue("\xff"), base.BlobValue([]byte{0, 255}), {}}
	const want = `[["i","-7"],["r","1.5"],["t","gänse"],["x","ff"],["b","00ff"],["n",""]]`
	if got := string(packValues(values).Bytes); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, bad := range []string{`[`, `[["i","x"]]`, `[["b","0"]]`, `[["q",""]]`, `{}`} {
		if _, err := unpackValues(base.TextValue(bad)); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

func FuzzOrphanedValues(f *testing.F) {
	f.Add(`[["i","-7"],["r","1.5"],["t","x"],["x","ff"],["b","00ff"],["n",""]]`)
	f.Fuzz(func(t *testing.T, s string) {
		values, err := unpackValues(base.TextValue(s))
		if err != nil {
			return
		}
		again, err := unpackValues(packValues(values))
		if err != nil || len(again) != len(values) {
			t.Fatalf("%v becomes %v, %v", values, again, err)
		}
	})
}

// The table of orphaned writes is one that people may read themselves.
func TestOrphanFileIsAsDescribed(t *testing.T) {
	dir := t.TempDir()
	e := env.Real(slog.New(slog.DiscardHandler))
	r := &Replica{env: e, options: Options{Dir: dir}, log: e.Log}
	conn, err := r.openOrphans(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	st, err := conn.PrepareOwn("SELECT group_concat(name || ' ' || type || ' ' || \"notnull\" || ' ' || pk, ', ') FROM pragma_table_info('orphan')")
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if _, err := st.Step(); err != nil {
		t.Fatal(err)
	}
	const want = "epoch INTEGER 1 1, seq INTEGER 1 2, written_ns INTEGER 1 0, table_name TEXT 1 0, operation TEXT 1 0, columns TEXT 1 0, key TEXT 0 0, old TEXT 0 0, new TEXT 0 0, rowid_name TEXT 0 0, acknowledged INTEGER 0 0"
	if got := string(st.Column(0).Bytes); got != want {
		t.Errorf("got %s", got)
	}
}

// An undoing that is cut short may not know the columns' names; the one that
// begins again fills them in, and leaves all else as it was.
func TestOrphansGetTheirNames(t *testing.T) {
	e := env.Real(slog.New(slog.DiscardHandler))
	r := &Replica{env: e, options: Options{Dir: t.TempDir()}, log: e.Log}
	conn, err := r.openOrphans(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var b rowformat.Buffer
	b.BeginInsert(b.Register(rowformat.Table{Name: "t", Columns: 1}), 7)
	b.Value(base.IntValue(1))
	b.End()
	orphan := &entry.Entry{Kind: entry.Row, Epoch: 3, First: 9, Count: 1, Body: b.Body(rowformat.Mark{})}
	for _, names := range []tableNames{{}, {rowid: "id", columns: []string{"a"}}, {}, {columns: []string{"b"}}} {
		k := orphanKeeper{conn: conn, rows: func(e *entry.Entry) ([]byte, bool, error) { return rowsOf(nil, e) }, columns: func(string) tableNames { return names }}
		if err := k.keep(orphan); err != nil {
			t.Fatal(err)
		}
	}
	list, err := r.Orphans(t.Context(), 10)
	if err != nil || len(list) != 1 || !slices.Equal(list[0].Columns, []string{"a"}) || list[0].RowIDName != "id" {
		t.Errorf("kept %+v, %v", list, err)
	}
}

// The epochs of a log that begins after a position end with the position's own.
func TestStartsEndWithThePositionsEpoch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var known []changelog.EpochStart
		epoch, first := base.Epoch(0), base.Seq(0)
		for range rapid.IntRange(0, 5).Draw(t, "epochs") {
			epoch += base.Epoch(rapid.IntRange(1, 3).Draw(t, "epoch"))
			first += base.Seq(rapid.IntRange(1, 5).Draw(t, "first"))
			known = append(known, changelog.EpochStart{Epoch: epoch, First: first})
		}
		at := base.Position{Epoch: base.Epoch(rapid.IntRange(0, 15).Draw(t, "at epoch")), Seq: base.Seq(rapid.IntRange(0, 30).Draw(t, "at"))}
		if (at.Epoch == 0) != (at.Seq == 0) {
			t.Skip("no position")
		}
		starts := startsOf(known, at)
		var last changelog.EpochStart
		for _, s := range starts {
			if s.Epoch <= last.Epoch || s.First <= last.First || s.First > at.Seq {
				t.Fatalf("starts of %v after %v: %v", at, known, starts)
			}
			last = s
		}
		if last.Epoch != at.Epoch {
			t.Fatalf("starts of %v after %v: %v", at, known, starts)
		}
	})
}

// The book of operations forgets the oldest, knows what it has forgotten, and
// never denies what it may have known.
func TestOperationsForgetInOrder(t *testing.T) {
	var o operations
	o.reset(10)
	for n := range maxOperations + 100 {
		e := entry.Entry{Epoch: 1, First: base.Seq(11 + n), Count: 1, Operation: packOperation(opID(n), 1), HasOperation: true}
		o.note(&e)
	}
	if _, found, after := o.find(opID(0)); found || after != 110 {
		t.Errorf("the oldest: %v, after %d", found, after)
	}
	o.cut(200)
	if _, found, _ := o.find(opID(190)); found {
		t.Error("what was cut is found")
	}
	if _, found, after := o.find(opID(150)); !found || after != 110 {
		t.Errorf("what was not: %v, after %d", found, after)
	}
	o.reset(500)
	if _, found, after := o.find(opID(150)); found || after != 500 {
		t.Errorf("after a reset: %v, after %d", found, after)
	}
}

// What was cut may have been asked for before: neither it nor what has taken its
// place in the book is mistaken for the other, however often the book went round.
func TestOperationsAreFoundAfterOthersTookTheirPlace(t *testing.T) {
	var o operations
	o.reset(0)
	seq := base.Seq(0)
	note := func(n int) {
		seq++
		e := entry.Entry{Epoch: 1, First: seq, Count: 1, Kind: entry.Row, Body: []byte{1}, Operation: packOperation(opID(n), int64(n)), HasOperation: true}
		o.noteAll(entry.Append(nil, &e))
	}
	holds := func(n int, want bool) {
		t.Helper()
		if op, found, _ := o.find(opID(n)); found != want || want && op.rows != int64(n) {
			t.Fatalf("operation %d: found %v, %d rows", n, found, op.rows)
		}
	}
	for n := range 100 {
		note(n)
	}
	holds(99, true)
	o.cut(50)
	seq = 50
	note(1000)
	holds(49, true)
	holds(50, false)
	holds(99, false)
	holds(1000, true)
	const rounds = 4
	for n := range rounds * maxOperations {
		note(2000 + n)
		if n%maxOperations == 7 {
			holds(2000+n, true)
		}
	}
	holds(1000, false)
	last := 2000 + rounds*maxOperations - 1
	holds(last-maxOperations, false)
	holds(last-maxOperations+1, true)
	holds(last, true)
	if n := len(o.mu.byID); n > 3*maxOperations {
		t.Errorf("the index has %d names for %d operations", n, maxOperations)
	}
}

func opID(n int) (id replica.OperationID) {
	copy(id[:], strings.Repeat("x", 10))
	id[0], id[1], id[2] = byte(n), byte(n>>8), byte(n>>16)
	return id
}

// A note that a power cut may have made older than it was rules nothing out.
func TestAnOldNoteRulesNothingOut(t *testing.T) {
	for _, test := range []struct {
		whole bool
		seq   base.Seq
		want  base.Value
	}{
		{true, 363, base.IntValue(1)}, {true, 365, base.IntValue(0)},
		{false, 363, base.IntValue(1)}, {false, 365, base.Value{}},
	} {
		v := verdict{noted: base.Position{Epoch: 2, Seq: 363}, any: true, whole: test.whole, loss: true, current: 3}
		if got := v.of(base.Position{Epoch: 2, Seq: test.seq}); got.Kind != test.want.Kind || got.Int != test.want.Int {
			t.Errorf("seq %d, whole %v: got %v", test.seq, test.whole, got)
		}
	}
}

// The note of what was acknowledged is as docs/format/orphans.md says, and no
// other bytes are taken for one.
func TestAcknowledgedIsAsDescribed(t *testing.T) {
	n := noted{base.Position{Epoch: 3, Seq: 0x0102}, 0x0a0b}
	b := encodeAcknowledged(n)
	if got := hex.EncodeToString(b); got != "02030000000000000002010000000000000b0a000000000000a5aeca0b" {
		t.Errorf("got %s", got)
	}
	if got, err := decodeAcknowledged(b); err != nil || got != n {
		t.Errorf("got %v, %v", got, err)
	}
	earlier, err := hex.DecodeString("0103000000000000000201000000000000c3c98a6c")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeAcknowledged(earlier); err != nil || got != (noted{at: n.at}) {
		t.Errorf("of version 1: got %v, %v", got, err)
	}
	for i := range b {
		bad := slices.Clone(b)
		bad[i] ^= 1
		if _, err := decodeAcknowledged(bad); base.KindOf(err) != base.KindCorrupt {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := decodeAcknowledged(b[:i]); err == nil {
			t.Errorf("%d bytes are taken for a note", i)
		}
	}
}
