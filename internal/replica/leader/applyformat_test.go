package leader

import (
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/pageformat"
)

// TestAFileThatCannotBeHeldIsRefused checks what a follower says where the
// leader's file is of a kind that it has no way to hold.
func TestAFileThatCannotBeHeldIsRefused(t *testing.T) {
	good := pageformat.Layout{PageSize: 4096, Encoding: 1, Format: 2, Reserved: 8}
	for _, change := range []func(*pageformat.Layout){
		func(l *pageformat.Layout) { l.PageSize = 1000 },
		func(l *pageformat.Layout) { l.Encoding = 2 },
		func(l *pageformat.Layout) { l.Format = 3 },
	} {
		l := good
		change(&l)
		e := entry.Entry{Epoch: 1, First: 2, Count: 1, Kind: entry.Format,
			Body: entry.AppendFormatChange(nil, entry.FormatChange{Name: base.FormatWAL, Details: pageformat.AppendLayout(nil, l)})}
		if err := applyFormat(&e); base.KindOf(err) != base.KindUnsupported {
			t.Errorf("%+v: %v", l, err)
		}
	}
	e := entry.Entry{Epoch: 1, First: 2, Count: 1, Kind: entry.Format,
		Body: entry.AppendFormatChange(nil, entry.FormatChange{Name: base.FormatWAL, Details: pageformat.AppendLayout(nil, good)})}
	if err := applyFormat(&e); err != nil {
		t.Error(err)
	}
}
