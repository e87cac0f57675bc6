package pageformat_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/golden"
	"github.com/skeindb/skein/internal/pageformat"
)

func pages(size int, total uint32, fill byte, numbers ...uint32) pageformat.Pages {
	p := pageformat.Pages{Base: pageformat.BaseID{1, 2, 3, 15: 16}, PageSize: size, Size: total, Numbers: numbers}
	for i := range numbers {
		page := bytes.Repeat([]byte{fill + byte(i)}, size)
		copy(page, "SQLite format 3")
		p.Data = append(p.Data, page...)
	}
	return p
}

func examples() []pageformat.Pages {
	rowless := pages(1024, 2, 9, 2)
	rowless.Rowless = true
	return []pageformat.Pages{
		rowless,
		pages(512, 1, 0, 1),
		pages(4096, 300_000, 7, 1, 2, 262_144, 299_999, 300_000),
		pages(65536, 0xffffffff, 200, 0xffffffff),
	}
}

// TestGolden pins that what was written once is read for ever. How well pages
// are compressed may change: what is written now must only be read as the same.
func TestGolden(t *testing.T) {
	var b strings.Builder
	for _, p := range examples() {
		b.WriteString(hex.EncodeToString(pageformat.Append(nil, &p)) + "\n")
	}
	lines := strings.Fields(golden.Kept(t, "testdata/v1.golden", b.String()))
	if len(lines) != len(examples()) {
		t.Fatalf("%d lines", len(lines))
	}
	for i, line := range lines {
		body, _ := hex.DecodeString(line)
		p, err := pageformat.Decode(body)
		if err != nil || !reflect.DeepEqual(*p, examples()[i]) {
			t.Errorf("line %d: %v", i+1, err)
		}
	}
}

func draw(t *rapid.T) pageformat.Pages {
	p := pageformat.Pages{Rowless: rapid.Bool().Draw(t, "rowless"), PageSize: 512 << rapid.IntRange(0, 7).Draw(t, "size")}
	copy(p.Base[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "base"))
	for _, step := range rapid.SliceOfN(rapid.Uint32Range(1, 1<<27), 1, 5).Draw(t, "steps") {
		p.Size += step
		p.Numbers = append(p.Numbers, p.Size)
		page := make([]byte, p.PageSize)
		copy(page[rapid.IntRange(0, p.PageSize-100).Draw(t, "at"):], rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "content"))
		p.Data = append(p.Data, page...)
	}
	p.Size += rapid.Uint32Range(0, 1<<20).Draw(t, "more")
	return p
}

func TestRoundTripAndFlippedBits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := draw(t)
		body := pageformat.Append(nil, &p)
		got, err := pageformat.Decode(body)
		if err != nil || !reflect.DeepEqual(*got, p) {
			t.Fatalf("%v", err)
		}
		if base, err := pageformat.Base(body); err != nil || base != p.Base {
			t.Fatalf("base %x, %v", base, err)
		}
		bit := rapid.IntRange(0, 8*len(body)-1).Draw(t, "bit")
		body[bit/8] ^= 1 << (bit % 8)
		if got, err := pageformat.Decode(body); err == nil && bytes.Equal(got.Data, p.Data) == false {
			t.Fatalf("bit %d: other pages, and no error", bit)
		}
	})
}

func TestWhatMakesNoSenseIsNotWritten(t *testing.T) {
	for name, change := range map[string]func(*pageformat.Pages){
		"page size":  func(p *pageformat.Pages) { p.PageSize = 1000 },
		"no pages":   func(p *pageformat.Pages) { p.Numbers, p.Data = nil, nil },
		"order":      func(p *pageformat.Pages) { p.Numbers[0], p.Numbers[1] = 2, 1 },
		"zero":       func(p *pageformat.Pages) { p.Numbers[0] = 0 },
		"behind end": func(p *pageformat.Pages) { p.Size = 1 },
		"data":       func(p *pageformat.Pages) { p.Data = p.Data[1:] },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: it was written", name)
				}
			}()
			p := pages(512, 9, 0, 1, 2)
			change(&p)
			pageformat.Append(nil, &p)
		}()
	}
}

func layouts() map[string]pageformat.Layout {
	return map[string]pageformat.Layout{
		"":            {PageSize: 4096, Encoding: 1, Format: 2, Reserved: 8},
		"65536 pages": {PageSize: 65536, Encoding: 1, Format: 2, Reserved: 0},
		"page size":   {PageSize: 1000, Encoding: 1, Format: 2, Reserved: 8},
		"encoding":    {PageSize: 4096, Encoding: 3, Format: 2, Reserved: 8},
		"format":      {PageSize: 4096, Encoding: 1, Format: 3, Reserved: 8},
		"reserved":    {PageSize: 4096, Encoding: 1, Format: 2, Reserved: 12},
	}
}

func TestLayout(t *testing.T) {
	for name, l := range layouts() {
		b := pageformat.AppendLayout(nil, l)
		if got, err := pageformat.DecodeLayout(b); err != nil || got != l {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		for _, bad := range [][]byte{nil, b[:len(b)-1], append(b, 0), {2, 1, 1, 2, 8}} {
			if _, err := pageformat.DecodeLayout(bad); !errors.Is(err, pageformat.ErrCorrupt) {
				t.Errorf("%s: %x: %v", name, bad, err)
			}
		}
		refused := name != "" && name != "65536 pages"
		if err := l.Check(); (err != nil) != refused || refused && base.KindOf(err) != base.KindUnsupported {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzLayout(f *testing.F) {
	for _, l := range layouts() {
		f.Add(pageformat.AppendLayout(nil, l))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := pageformat.DecodeLayout(b); err == nil {
			if again, err := pageformat.DecodeLayout(pageformat.AppendLayout(nil, l)); err != nil || again != l {
				t.Fatalf("%+v became %+v, %v", l, again, err)
			}
		}
	})
}

// TestMerge goes back over several transactions at once.
func TestMerge(t *testing.T) {
	var m pageformat.Merge
	first, second, third := pages(512, 10, 1, 2, 9), pages(512, 8, 50, 2, 3), pages(512, 12, 100, 3, 11)
	m.AddOlderFirst(&first)
	m.AddOlderFirst(&second)
	m.AddOlderFirst(&third)
	got := m.Pages()
	if got.Size != 10 || !reflect.DeepEqual(got.Numbers, []uint32{2, 3, 9}) {
		t.Fatalf("%d pages: %v", got.Size, got.Numbers)
	}
	want := slices.Concat(first.Data[:512], second.Data[512:], first.Data[512:])
	if !bytes.Equal(got.Data, want) {
		t.Error("other pages")
	}
}

// FuzzDecode checks that no bytes make the decoder panic, and that whatever
// decodes can be written again.
func FuzzDecode(f *testing.F) {
	for _, p := range examples() {
		body := pageformat.Append(nil, &p)
		f.Add(body)
		f.Add(body[:len(body)-1])
		body[len(body)/2] ^= 4
		f.Add(body)
	}
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := pageformat.Decode(b)
		if err != nil {
			if !errors.Is(err, pageformat.ErrCorrupt) {
				t.Fatalf("not called corrupt: %v", err)
			}
			return
		}
		again, err := pageformat.Decode(pageformat.Append(nil, p))
		if err != nil || !reflect.DeepEqual(p, again) {
			t.Fatalf("written again it is something else: %v", err)
		}
	})
}
