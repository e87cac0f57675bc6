package entry_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/golden"
)

func examples() []entry.Entry {
	return []entry.Entry{
		{Epoch: 1, First: 1, Count: 1, Time: 1_700_000_000_000_000_000, Kind: entry.EpochStart},
		{Epoch: 1, First: 2, Count: 3, Time: 1_700_000_000_000_000_001, Kind: entry.Row, Body: []byte("three rows")},
		{
			Epoch: 300, First: 1 << 40, Count: 1 << 20, Time: -1, Kind: entry.Row, HasOperation: true,
			Operation: entry.OperationID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, Body: []byte{0, 0xff},
		},
		{
			Epoch: 2, First: 12, Count: 1, Time: 1_700_000_000_000_000_002, Kind: entry.Format,
			Body: entry.AppendFormatChange(nil, entry.FormatChange{Name: "statement", Details: []byte{7}}),
		},
		{Epoch: math.MaxUint64, First: math.MaxUint64 - math.MaxUint32, Count: math.MaxUint32, Time: math.MinInt64, Kind: 255},
		{Epoch: 2, First: 9, Count: 1, Time: 1_700_000_000_000_000_002, Kind: entry.Row, Past: []byte("what was seen before"), Body: []byte("one row")},
	}
}

// TestGolden pins the bytes: entries that were written once are read for ever.
func TestGolden(t *testing.T) {
	var b strings.Builder
	for _, e := range examples() {
		b.WriteString(hex.EncodeToString(entry.Append(nil, &e)) + "\n")
	}
	kept := golden.Check(t, "testdata/v1.golden", b.String())
	for i, line := range strings.Fields(kept) {
		frame, _ := hex.DecodeString(line)
		e, n, err := entry.Decode(frame)
		if err != nil || n != len(frame) || !equal(e, examples()[i]) {
			t.Errorf("line %d: %+v, %d, %v", i+1, e, n, err)
		}
	}
}

func equal(a, b entry.Entry) bool {
	return a.Epoch == b.Epoch && a.First == b.First && a.Count == b.Count && a.Time == b.Time && a.Kind == b.Kind &&
		a.Operation == b.Operation && a.HasOperation == b.HasOperation && bytes.Equal(a.Body, b.Body) && bytes.Equal(a.Past, b.Past)
}

func draw(t *rapid.T) entry.Entry {
	e := entry.Entry{
		Epoch: base.Epoch(rapid.Uint64Min(1).Draw(t, "epoch")),
		First: base.Seq(rapid.Uint64Range(1, math.MaxUint64-math.MaxUint32).Draw(t, "first")),
		Count: rapid.Uint32Min(1).Draw(t, "count"), Time: rapid.Int64().Draw(t, "time"),
		Kind: entry.Kind(rapid.ByteMin(7).Draw(t, "kind")), HasOperation: rapid.Bool().Draw(t, "has operation"),
		Past: rapid.SliceOfN(rapid.Byte(), 0, 150).Draw(t, "past"),
		Body: rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "body"),
	}
	if e.HasOperation {
		copy(e.Operation[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "operation"))
	}
	return e
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := draw(t)
		frame := entry.Append([]byte("before"), &e)[len("before"):]
		if len(frame) != entry.Size(&e) || len(frame) > len(e.Past)+2+len(e.Body)+entry.MaxOverhead {
			t.Fatalf("%d bytes, size says %d", len(frame), entry.Size(&e))
		}
		got, n, err := entry.Decode(append(frame, "after"...))
		if err != nil || n != len(frame) || !equal(got, e) {
			t.Fatalf("%+v, %d, %v", got, n, err)
		}
		got.Body, e.Body, got.Past, e.Past = nil, nil, nil, nil
		peeked, n, err := entry.Peek(frame[:min(len(frame), entry.MaxOverhead)])
		if err != nil || n != len(frame) || !equal(peeked, e) {
			t.Fatalf("peek: %+v, %d, %v", peeked, n, err)
		}
	})
}

// TestShortOrCorrupt checks that every beginning of a frame is short and that
// every flipped bit is found, with no length field believed too soon.
func TestShortOrCorrupt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := draw(t)
		frame := entry.Append(nil, &e)
		cut := rapid.IntRange(0, len(frame)-1).Draw(t, "cut")
		if _, _, err := entry.Decode(frame[:cut]); !errors.Is(err, entry.ErrShort) {
			t.Fatalf("%d of %d bytes: %v", cut, len(frame), err)
		}
		bit := rapid.IntRange(0, 8*len(frame)-1).Draw(t, "bit")
		frame[bit/8] ^= 1 << (bit % 8)
		_, _, err := entry.Decode(frame)
		if err == nil || (errors.Is(err, entry.ErrShort) && bit >= 32) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	})
}

func TestCheck(t *testing.T) {
	good := entry.Entry{Epoch: 1, First: 1, Count: 1, Kind: entry.Row}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*entry.Entry){
		"epoch":    func(e *entry.Entry) { e.Epoch = 0 },
		"first":    func(e *entry.Entry) { e.First = 0 },
		"count":    func(e *entry.Entry) { e.Count = 0 },
		"kind":     func(e *entry.Entry) { e.Kind = 0 },
		"overflow": func(e *entry.Entry) { e.First, e.Count = math.MaxUint64, 2 },
		"start":    func(e *entry.Entry) { e.Kind, e.Body = entry.EpochStart, []byte{1} },
		"past":     func(e *entry.Entry) { e.Past = make([]byte, entry.MaxPast+1) },
		"large":    func(e *entry.Entry) { e.Body = make([]byte, entry.MaxSize) },
	} {
		e := good
		change(&e)
		err := e.Check()
		if err == nil || (base.KindOf(err) == base.KindTooLarge) != (name == "large") {
			t.Errorf("%s: %v", name, err)
		}
	}
	largest := good
	largest.Body = make([]byte, entry.MaxSize-entry.Size(&good))
	if _, n, err := entry.Decode(entry.Append(nil, &largest)); n != entry.MaxSize || err != nil {
		t.Errorf("the largest entry: %d, %v", n, err)
	}
}

func TestPosition(t *testing.T) {
	e := entry.Entry{Epoch: 4, First: 10, Count: 5}
	if e.Last() != 14 || e.Position() != (base.Position{Epoch: 4, Seq: 14}) {
		t.Errorf("last %d, position %v", e.Last(), e.Position())
	}
}

func TestScan(t *testing.T) {
	frame := func(epoch base.Epoch, first base.Seq, count uint32) []byte {
		return entry.Append(nil, &entry.Entry{Epoch: epoch, First: first, Count: count, Kind: entry.Row})
	}
	join := func(frames ...[]byte) []byte { return bytes.Join(frames, nil) }
	seen := 0
	span, err := entry.Scan(join(frame(1, 5, 2), frame(1, 7, 1), frame(3, 8, 4)), func(e *entry.Entry, f []byte) error {
		seen += len(f)
		return nil
	})
	want := entry.Span{First: 5, Last: 11, FirstEpoch: 1, LastEpoch: 3, Entries: 3}
	if err != nil || span != want || seen == 0 || span.Position() != (base.Position{Epoch: 3, Seq: 11}) {
		t.Errorf("%+v, %v", span, err)
	}
	for name, frames := range map[string][]byte{
		"gap":        join(frame(1, 5, 2), frame(1, 8, 1)),
		"overlap":    join(frame(1, 5, 2), frame(1, 6, 1)),
		"epoch back": join(frame(2, 5, 2), frame(1, 7, 1)),
		"rest":       join(frame(1, 5, 2), []byte{1, 2}),
	} {
		if _, err := entry.Scan(frames, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	stop := errors.New("stop")
	if _, err := entry.Scan(frame(1, 1, 1), func(*entry.Entry, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("visit's error: %v", err)
	}
}

// FuzzDecode checks that no bytes make the decoder panic, and that whatever
// decodes is encoded in the one way there is.
func FuzzDecode(f *testing.F) {
	for _, e := range examples() {
		frame := entry.Append(nil, &e)
		f.Add(frame)
		f.Add(frame[:len(frame)-1])
		frame[len(frame)/2] ^= 4
		f.Add(frame)
	}
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		peeked, size, peekErr := entry.Peek(b)
		e, n, err := entry.Decode(b)
		if err != nil {
			if !errors.Is(err, entry.ErrShort) && !errors.Is(err, entry.ErrCorrupt) {
				t.Fatalf("neither short nor corrupt: %v", err)
			}
			return
		}
		if again := entry.Append(nil, &e); !bytes.Equal(again, b[:n]) {
			t.Fatalf("another encoding of the same entry:\n%x\n%x", b[:n], again)
		}
		if peekErr != nil || size != n || peeked.Position() != e.Position() {
			t.Fatalf("peek: %+v, %d, %v", peeked, size, peekErr)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	e := entry.Entry{Epoch: 5, First: 1 << 30, Count: 1, Time: 1 << 60, Kind: entry.Row, Body: make([]byte, 200)}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = entry.Append(dst[:0], &e)
	}
	b.SetBytes(int64(len(dst)))
}

func BenchmarkDecode(b *testing.B) {
	for _, size := range []int{200, 10_000} {
		e := entry.Entry{Epoch: 5, First: 1 << 30, Count: 1, Time: 1 << 60, Kind: entry.Row, Body: make([]byte, size)}
		frame := entry.Append(nil, &e)
		b.Run(map[int]string{200: "200B", 10_000: "10KB"}[size], func(b *testing.B) {
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := entry.Decode(frame); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPeek(b *testing.B) {
	e := entry.Entry{Epoch: 5, First: 1 << 30, Count: 1, Time: 1 << 60, Kind: entry.Row, Body: make([]byte, 200)}
	frame := entry.Append(nil, &e)
	for b.Loop() {
		if _, _, err := entry.Peek(frame); err != nil {
			b.Fatal(err)
		}
	}
}
