package changelog_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/env/crashfs"
	"github.com/skeindb/skein/internal/golden"
)

// goldenLog returns a disk with a log of one segment, and what it holds: two
// epochs before it, two in it, two batches in each of these, a mark.
func goldenLog(t tester) (*crashfs.Disk, *model) {
	d := newDisk(t)
	l, _, err := changelog.Open(environment(d, 77), dir, options())
	must(t, err)
	m := &model{
		before: base.Position{Epoch: 3, Seq: 9},
		old:    []changelog.EpochStart{{Epoch: 1, First: 1}, {Epoch: 3, First: 8}},
	}
	must(t, l.Reset(m.before, m.old))
	for i := range 4 {
		m.add(appendBatch(t, l, base.Epoch(3+i/2), 1+i, 20))
		sync_(t, l)
	}
	m.floor = m.end().Seq
	must(t, l.Close())
	return d, m
}

// hexDump writes what is not zero, a row of 32 bytes a line.
func hexDump(data []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "size %d\n", len(data))
	for at := 0; at < len(data); at += 32 {
		row := data[at:min(at+32, len(data))]
		if len(bytes.Trim(row, "\x00")) > 0 {
			fmt.Fprintf(&b, "%05x %s\n", at, hex.EncodeToString(row))
		}
	}
	return b.String()
}

func parseHexDump(t tester, dump string) []byte {
	lines := strings.Split(strings.TrimSpace(dump), "\n")
	var size, at int
	_, err := fmt.Sscanf(lines[0], "size %d", &size)
	must(t, err)
	data := make([]byte, size)
	for _, line := range lines[1:] {
		var row []byte
		_, err := fmt.Sscanf(line, "%x %x", &at, &row)
		must(t, err)
		copy(data[at:], row)
	}
	return data
}

// TestGolden pins the bytes of a segment, and reads those that were written
// once.
func TestGolden(t *testing.T) {
	d, m := goldenLog(t)
	name := d.Files()[0]
	data, err := d.ReadFile(name)
	must(t, err)
	kept := golden.Check(t, "testdata/segment-v1.golden", hexDump(data))
	d = newDisk(t)
	place(t, d, name, parseHexDump(t, kept))
	l, r := open(t, d, options())
	if r.Rewritten || r.TornBytes != 0 {
		t.Errorf("%+v", r)
	}
	must(t, m.holds(t, l))
	must(t, l.Close())
}

// place puts a file on a disk.
func place(t tester, d *crashfs.Disk, name string, data []byte) {
	must(t, d.MkdirAll(dir, 0o700))
	f, err := d.OpenFile(name, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	must(t, err)
	_, err = f.WriteAt(data, 0)
	must(t, err)
	must(t, f.Close())
}

// FuzzOpen opens a log whose last segment has any bytes at all. Whatever they
// are, Open refuses, or what it finds can be read, verified and gone on with.
func FuzzOpen(f *testing.F) {
	d, _ := goldenLog(f)
	name := d.Files()[0]
	data, err := d.ReadFile(name)
	must(f, err)
	f.Add(data)
	f.Add(data[:9000])
	f.Add([]byte("skeinlog"))
	for at := 20; at < 9500; at += 1013 {
		hurt := bytes.Clone(data)
		hurt[at] ^= 0x10
		f.Add(hurt)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := newDisk(t)
		place(t, d, name, data)
		l, _, err := changelog.Open(environment(d, 1), dir, options())
		if err != nil {
			return
		}
		if l.Flushed() != l.End().Seq {
			t.Fatalf("flushed %d of %v", l.Flushed(), l.End())
		}
		end := l.End()
		must(t, l.Verify(t.Context()))
		frames, last := batchOf(end.Epoch+1, end.Seq+1, 2, 10)
		if end.Epoch+1 != 0 && last > end.Seq {
			must(t, l.Append(frames, end.Seq+1, last, end.Epoch+1))
		}
		must(t, l.Close())
	})
}
