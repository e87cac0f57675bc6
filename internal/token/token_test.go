package token

import (
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/golden"
)

func pos(epoch base.Epoch, seq base.Seq) base.Position { return base.Position{Epoch: epoch, Seq: seq} }

func make1(t interface{ Fatal(...any) }, entries ...Entry) Token {
	var tok Token
	for _, e := range entries {
		var err error
		if tok, err = tok.With(e.Database, e.Position); err != nil {
			t.Fatal(err)
		}
	}
	return tok
}

func TestGolden(t *testing.T) {
	var b strings.Builder
	for _, entries := range [][]Entry{
		{{1, pos(1, 1)}},
		{{1, pos(3, 127)}, {2, pos(1, 128)}},
		{{7, pos(12, 123456789)}},
		{{300, pos(1, 5)}, {2, pos(2, 0)}},
		{{math.MaxUint64, pos(math.MaxUint64, math.MaxUint64)}},
	} {
		tok := make1(t, entries...)
		fmt.Fprintf(&b, "%v: %s\n", tok.Entries(), tok)
	}
	heard := make1(t, Entry{2, pos(1, 3)}, Entry{5, pos(4, 9)}).Past(9)
	for _, tok := range []Token{Token{}.Hear(heard), make1(t, Entry{2, pos(1, 1)}, Entry{9, pos(1, 7)}).Hear(heard)} {
		fmt.Fprintf(&b, "%v and heard %v %v: %s\n", tok.Entries(), tok.Heard(2), tok.Heard(5), tok)
	}
	golden.Check(t, "testdata/tokens.golden", b.String())
}

func TestMergeTakesTheLater(t *testing.T) {
	a := make1(t, Entry{1, pos(1, 50)}, Entry{2, pos(2, 5)})
	b := make1(t, Entry{1, pos(2, 10)}, Entry{2, pos(2, 4)}, Entry{3, pos(1, 1)})
	got, err := a.Merge(b)
	want := []Entry{{1, pos(2, 10)}, {2, pos(2, 5)}, {3, pos(1, 1)}}
	if err != nil || !slices.Equal(got.Entries(), want) {
		t.Errorf("merged to %v, %v", got.Entries(), err)
	}
	if a.Get(1) != pos(1, 50) {
		t.Errorf("merging changed one of the tokens")
	}
	if got := got.Without(2); got.Get(2) != pos(0, 0) || got.Get(3) != pos(1, 1) {
		t.Errorf("without 2: %v", got.Entries())
	}
}

func TestTooManyDatabases(t *testing.T) {
	var tok Token
	for i := range MaxDatabases {
		tok = make1(t, append(tok.Entries(), Entry{math.MaxUint64 - base.DatabaseID(i), pos(math.MaxUint64, math.MaxUint64)})...)
	}
	if _, err := tok.With(1, pos(1, 1)); base.KindOf(err) != base.KindTooLarge {
		t.Errorf("one more: %v", err)
	}
	if _, err := tok.With(math.MaxUint64, pos(1, 1)); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	text := tok.String()
	if len(text) > MaxText {
		t.Errorf("%d bytes of text", len(text))
	}
	if got, err := Parse(text); err != nil || got.String() != text {
		t.Errorf("parse: %v", err)
	}
}

func TestGarbage(t *testing.T) {
	good := make1(t, Entry{1, pos(1, 1)}, Entry{9, pos(2, 300)}).String()
	bad := []string{"x", "!", good + "A", good[1:], strings.Repeat("A", MaxText+1), good + "\n", good + "=", "AQAAAA", " " + good}
	for i := range good {
		c := byte('A')
		if good[i] == c {
			c = 'B'
		}
		bad = append(bad, good[:i]+string(c)+good[i+1:])
	}
	for name, body := range map[string][]byte{
		"no entries": {1}, "later version": {2, 1, 1, 1, 1}, "unknown kind": {1, 1, 4, 1, 1}, "database 0": {1, 0, 1, 1, 1},
		"same database twice": {1, 1, 1, 1, 1, 0, 1, 1, 1}, "cut": {1, 1, 1, 1}, "zero position": {1, 1, 1, 0, 0}, "long form": {1, 1, 1, 0x81, 0, 1},
		"heard of no later": {1, 1, 3, 2, 5, 2, 5}, "heard of nothing": {1, 1, 2, 0, 0}, "half of both": {1, 1, 3, 2, 5},
	} {
		bad = append(bad, base64.RawURLEncoding.EncodeToString(appendCheck(body)))
		_ = name
	}
	for _, s := range bad {
		if tok, err := Parse(s); base.KindOf(err) != base.KindInvalid || !tok.Empty() {
			t.Errorf("%q: %v, %v", s, tok.Entries(), err)
		}
	}
	if tok, err := Parse(""); err != nil || !tok.Empty() || tok.String() != "" {
		t.Errorf("empty: %v", err)
	}
}

func anyToken(t *rapid.T) Token {
	tok := Token{}.Hear(anyPast(t))
	for range rapid.IntRange(0, 5).Draw(t, "n") {
		tok = make1(t, append(tok.Entries(), Entry{
			base.DatabaseID(rapid.Uint64Range(1, 8).Draw(t, "db")),
			pos(base.Epoch(rapid.Uint64Range(0, 3).Draw(t, "epoch")), base.Seq(rapid.Uint64Range(0, 300).Draw(t, "seq"))),
		})...)
	}
	return tok
}

// TestMergeIsAJoin: whatever the order and however often, the result is one.
func TestMergeIsAJoin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := anyToken(t), anyToken(t), anyToken(t)
		merge := func(x, y Token) Token {
			z, err := x.Merge(y)
			if err != nil {
				t.Fatal(err)
			}
			return z
		}
		if merge(a, b).String() != merge(b, a).String() {
			t.Errorf("order matters")
		}
		if merge(a, merge(b, c)).String() != merge(merge(a, b), c).String() {
			t.Errorf("grouping matters")
		}
		if merge(a, a).String() != a.String() {
			t.Errorf("repeating matters")
		}
		for _, e := range merge(a, b).Entries() {
			if e.Position.Less(a.Get(e.Database)) || e.Position.Less(b.Get(e.Database)) {
				t.Errorf("merging forgot database %d", e.Database)
			}
		}
		for db := range base.DatabaseID(9) {
			all := later(merge(a, b).Get(db), merge(a, b).Heard(db))
			for _, x := range []Token{a, b} {
				if all.Less(x.Heard(db)) {
					t.Errorf("merging forgot what was heard of database %d", db)
				}
			}
		}
		if got, err := Parse(a.String()); err != nil || got.String() != a.String() {
			t.Errorf("parse %q: %v", a.String(), err)
		}
	})
}

// FuzzParse: what is accepted is what would have been written.
func FuzzParse(f *testing.F) {
	f.Add(make1(f, Entry{1, pos(1, 1)}, Entry{9, pos(2, 300)}).String())
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if tok, err := Parse(s); err == nil && tok.String() != s {
			t.Errorf("%q is written as %q", s, tok.String())
		}
		// The same bytes with a right checksum, so that fuzzing gets past it.
		s = base64.RawURLEncoding.EncodeToString(appendCheck(append([]byte{version}, s...)))
		if tok, err := Parse(s); err == nil && tok.String() != s {
			t.Errorf("%q is written as %q", s, tok.String())
		}
	})
}
