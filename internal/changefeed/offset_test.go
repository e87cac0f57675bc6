package changefeed_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/golden"
)

// TestGolden pins the texts: an offset that a consumer keeps is read for ever.
func TestGolden(t *testing.T) {
	text := ""
	for _, o := range []changefeed.Offset{
		{Database: 1, Position: base.Position{Epoch: 1, Seq: 1}, Entry: 2},
		{Database: 7, Position: base.Position{Epoch: 3, Seq: 5001}, Entry: 4990},
		{Database: 300, Snapshot: true, Entry: 1},
		{Database: 1 << 63, Position: base.Position{Epoch: 1<<64 - 1, Seq: 1<<64 - 2}, Entry: 1},
	} {
		type fields changefeed.Offset // Without the method that writes the text.
		text += fmt.Sprintf("%s %+v\n", o, fields(o))
	}
	golden.Check(t, "testdata/offset-v1.golden", text)
}

func TestOffsetRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := changefeed.Offset{
			Database: base.DatabaseID(rapid.Uint64Min(1).Draw(t, "database")), Snapshot: rapid.Bool().Draw(t, "snapshot"),
			Position: base.Position{Epoch: base.Epoch(rapid.Uint64().Draw(t, "epoch")), Seq: base.Seq(rapid.Uint64Max(1<<64-2).Draw(t, "seq"))},
		}
		o.Entry = base.Seq(rapid.Uint64Range(1, uint64(o.Position.Seq)+1).Draw(t, "entry"))
		got, err := changefeed.ParseOffset(o.String())
		if err != nil || got != o {
			t.Fatalf("%+v from %q of %+v: %v", got, o.String(), o, err)
		}
	})
	if o, err := changefeed.ParseOffset(""); err != nil || o != (changefeed.Offset{}) {
		t.Errorf("empty: %+v, %v", o, err)
	}
}

func FuzzParseOffset(f *testing.F) {
	f.Add("")
	f.Add(changefeed.Offset{Database: 7, Position: base.Position{Epoch: 3, Seq: 5001}, Entry: 4990}.String())
	f.Add(changefeed.Offset{Database: 300, Snapshot: true, Entry: 1}.String())
	f.Fuzz(func(t *testing.T, text string) {
		o, err := changefeed.ParseOffset(text)
		if err == nil && o.String() != text {
			t.Fatalf("%q and %q are the same offset", text, o.String())
		}
		if err != nil && base.KindOf(err) != base.KindInvalid {
			t.Fatal(err)
		}
	})
}
