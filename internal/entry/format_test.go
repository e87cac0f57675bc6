package entry_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/skeindb/skein/internal/entry"
)

func TestFormatChange(t *testing.T) {
	for _, want := range []entry.FormatChange{{Name: "row"}, {Name: "wal", Details: []byte("page size 4096")}} {
		body := entry.AppendFormatChange(nil, want)
		got, err := entry.DecodeFormatChange(body)
		if err != nil || got.Name != want.Name || !bytes.Equal(got.Details, want.Details) {
			t.Errorf("%+v: read as %+v, %v", want, got, err)
		}
	}
	for _, bad := range []string{"", "\x01", "\x02\x03row", "\x01\x00", "\x01\x04row", "\x01\x83\x00row", "\x01\xff\x01row"} {
		if c, err := entry.DecodeFormatChange([]byte(bad)); !errors.Is(err, entry.ErrCorrupt) {
			t.Errorf("%q: %+v, %v", bad, c, err)
		}
	}
}

// FuzzFormatChange checks that bytes decode to what encodes to them, or not at all.
func FuzzFormatChange(f *testing.F) {
	f.Add([]byte("\x01\x03row"))
	f.Add([]byte("\x01\x03waldetails"))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := entry.DecodeFormatChange(body)
		if err == nil && !bytes.Equal(entry.AppendFormatChange(nil, c), body) {
			t.Errorf("%q decodes to %+v", body, c)
		}
	})
}
