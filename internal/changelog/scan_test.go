package changelog

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
)

// TestScanOfConsistentNonsense scans batches whose checksums are right and
// whose fields are anything. What the scan accepts must be a log.
func TestScanOfConsistentNonsense(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &header{number: 1, salt: 99, previous: base.Position{Epoch: 1, Seq: 4}, starts: []EpochStart{{1, 1}}}
		data := h.encode(4)
		small := rapid.Uint64Range(0, 12)
		for range rapid.IntRange(0, 6).Draw(t, "batches") {
			var frames []byte
			for range rapid.IntRange(0, 3).Draw(t, "entries") {
				e := entry.Entry{
					Epoch: base.Epoch(1 + small.Draw(t, "epoch")), First: base.Seq(1 + small.Draw(t, "first")),
					Count: uint32(1 + small.Draw(t, "count")), Kind: entry.Row,
				}
				frames = entry.Append(frames, &e)
			}
			b := batch{
				first: base.Seq(small.Draw(t, "batch first")), last: base.Seq(small.Draw(t, "batch last")),
				epoch: base.Epoch(small.Draw(t, "batch epoch")), flushed: base.Seq(small.Draw(t, "flushed")),
			}
			data = appendBatch(data, h.salt, b, frames)
		}
		data = append(data, make([]byte, 100)...)
		s := scanSegment(h, data[:rapid.IntRange(int(h.dataOffset()), len(data)).Draw(t, "size")])
		checkScan(t, h, data, s)
	})
}

func checkScan(t *rapid.T, h *header, data []byte, s *scanned) {
	at, position := h.dataOffset(), h.previous
	for at < s.offset {
		b, err := decodeBatch(data[at:], h.salt)
		if err != nil {
			t.Fatal(err)
		}
		span, err := entry.Scan(data[at+batchHeaderBytes:][:b.length], nil)
		if err != nil || span.First != position.Seq+1 || span.FirstEpoch < position.Epoch || span.FirstEpoch != span.LastEpoch {
			t.Fatalf("after %v comes %+v, %v", position, span, err)
		}
		position = span.Position()
		at = b.end(at)
	}
	if at != s.offset || position != s.position || s.bad == nil {
		t.Fatalf("scan ended at %d, %v: %v; want %d, %v", s.offset, s.position, s.bad, at, position)
	}
}

// TestHeaderRoundTrip covers headers of more than one page.
func TestHeaderRoundTrip(t *testing.T) {
	for _, epochs := range []int{0, 1, 251, 252, 5000, MaxEpochStarts} {
		h := &header{cluster: 1, database: 2, number: 3, salt: 4, base: epochs%2 == 0}
		for i := range epochs {
			h.starts = append(h.starts, EpochStart{base.Epoch(i + 1), base.Seq(2*i + 1)})
			h.previous = base.Position{Epoch: base.Epoch(i + 1), Seq: base.Seq(2*i + 2)}
		}
		b := h.encode(7)
		got, err := decodeHeader(b)
		if err != nil || got.previous != h.previous || len(got.starts) != epochs || got.base != h.base || len(b) > maxHeaderBytes {
			t.Fatalf("%d epochs in %d bytes: %v", epochs, len(b), err)
		}
		if mark := decodeMarks(b[h.size():], 4); mark != 7 {
			t.Fatalf("mark %d", mark)
		}
		if mark := decodeMarks(b[h.size():], 5); mark != 0 {
			t.Fatalf("a mark of another salt: %d", mark)
		}
	}
}
