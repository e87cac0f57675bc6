package walformat_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/sqlite/walformat"
)

func TestIndexHeader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := walformat.Index{
			Change: rapid.Uint32().Draw(t, "change"), Frames: rapid.Uint32().Draw(t, "frames"), Pages: rapid.Uint32().Draw(t, "pages"),
			PageSize: 512 << rapid.IntRange(0, 7).Draw(t, "page size"), BigSums: rapid.Bool().Draw(t, "big"),
			Last: walformat.Checksum{rapid.Uint32().Draw(t, "sum"), rapid.Uint32().Draw(t, "sum")},
		}
		copy(x.Salt[:], rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "salt"))
		both := append(x.Encode(), x.Encode()...)
		if got, ok := walformat.DecodeIndex(both); !ok || got != x {
			t.Fatalf("%+v, %v", got, ok)
		}
		both[rapid.IntRange(0, len(both)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, ok := walformat.DecodeIndex(both); ok {
			t.Fatal("two copies that differ were believed")
		}
	})
}

// TestEveryFrameHasItsPlace checks the regions, and that a page is found in them
// as SQLite looks for it: by its hash, the newest entry last.
func TestEveryFrameHasItsPlace(t *testing.T) {
	regions := make(map[int][]byte)
	const frames = 10_000
	before, entryBefore := 0, uint32(0)
	page := func(frame uint32) uint32 { return frame*7919%5000 + 1 }
	for frame := uint32(1); frame <= frames; frame++ {
		number, entry := walformat.Place(frame)
		if number == before && entry != entryBefore+1 || number != before && (number != before+1 || entry != 1) {
			t.Fatalf("frame %d: entry %d of region %d, after %d of %d", frame, entry, number, entryBefore, before)
		}
		if before, entryBefore = number, entry; regions[number] == nil {
			regions[number] = make([]byte, walformat.RegionSize)
		}
		walformat.Insert(number, regions[number], entry, page(frame))
	}
	if len(regions) != 3 {
		t.Errorf("%d regions", len(regions))
	}
	for frame := uint32(1); frame <= frames; frame++ {
		number, entry := walformat.Place(frame)
		if got := walformat.Page(number, regions[number], entry); got != page(frame) {
			t.Fatalf("frame %d: page %d", frame, got)
		}
	}
	walformat.Trim(1, regions[1], 10)
	walformat.Insert(1, regions[1], 11, 77)
	fresh := make([]byte, walformat.RegionSize)
	for entry := uint32(1); entry <= 10; entry++ {
		walformat.Insert(1, fresh, entry, walformat.Page(1, regions[1], entry))
	}
	walformat.Insert(1, fresh, 11, 77)
	for i := range fresh[:walformat.RegionSize/2] {
		if fresh[i] != regions[1][i] {
			t.Fatalf("byte %d", i)
		}
	}
}

func FuzzDecodeIndex(f *testing.F) {
	x := walformat.Index{PageSize: 4096}
	f.Add(append(x.Encode(), x.Encode()...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, ok := walformat.DecodeIndex(b); ok {
			if again, ok := walformat.DecodeIndex(append(x.Encode(), x.Encode()...)); !ok || again != x {
				t.Fatalf("%+v became %+v", x, again)
			}
		}
	})
}
