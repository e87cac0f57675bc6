package token

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/golden"
)

func anyPast(t *rapid.T) (p Past) {
	for range rapid.IntRange(0, 4).Draw(t, "noted") {
		var tok Token
		for range rapid.IntRange(0, 3).Draw(t, "others") {
			tok = make1(t, append(tok.Entries(), Entry{
				base.DatabaseID(rapid.Uint64Range(1, 8).Draw(t, "db")),
				pos(base.Epoch(rapid.Uint64Range(0, 3).Draw(t, "epoch")), base.Seq(rapid.Uint64Range(0, 300).Draw(t, "seq"))),
			})...)
		}
		p, _ = p.With(tok.Past(base.DatabaseID(rapid.Uint64Range(1, 8).Draw(t, "own"))))
	}
	return p
}

func positions(p Past) map[base.DatabaseID]base.Position {
	m := make(map[base.DatabaseID]base.Position)
	for _, e := range p.Entries() {
		m[e.Database] = e.Position
	}
	return m
}

func TestPastGolden(t *testing.T) {
	p := make1(t, Entry{1, pos(3, 127)}, Entry{300, pos(1, 128)}, Entry{7, pos(2, 2)}).Past(7)
	p, _ = p.With(make1(t, Entry{1, pos(1, 5)}).Past(7))
	kept := golden.Check(t, "testdata/past.golden", fmt.Sprintf("%v: %s\n", p.Entries(), hex.EncodeToString([]byte(p))))
	_, digits, _ := strings.Cut(strings.TrimSpace(kept), ": ")
	b, _ := hex.DecodeString(digits)
	if again, err := ParsePast(b); err != nil || again != p {
		t.Errorf("parsed %v, %v", again.Entries(), err)
	}
}

// TestPastIsAJoin: nothing that was noted is lost, whatever the order, and what
// is beyond a past is all that it needs to have everything.
func TestPastIsAJoin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyPast(t), anyPast(t)
		ab, forgotten := a.With(b)
		ba, _ := b.With(a)
		if forgotten != 0 || !equalPositions(ab, ba) {
			t.Errorf("order matters: %v, %v", ab.Entries(), ba.Entries())
		}
		for _, p := range []Past{a, b} {
			for _, e := range p.Entries() {
				if positions(ab)[e.Database].Less(e.Position) {
					t.Errorf("forgot %v", e)
				}
			}
		}
		if least, _ := a.With(b.Beyond(a)); !equalPositions(least, ab) {
			t.Errorf("%v beyond %v is %v", b.Entries(), a.Entries(), b.Beyond(a).Entries())
		}
		if a.Beyond(a) != "" {
			t.Errorf("beyond itself: %v", a.Beyond(a).Entries())
		}
		if again, err := ParsePast([]byte(ab)); err != nil || again != ab {
			t.Errorf("parsed %v, %v", again.Entries(), err)
		}
	})
}

func equalPositions(a, b Past) bool {
	return fmt.Sprint(positions(a)) == fmt.Sprint(positions(b))
}

// TestPastReachesTheToken: who sees a database has heard of its past, but for
// what it has seen itself.
func TestPastReachesTheToken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tok, p := anyToken(t), anyPast(t)
		heard := tok.Hear(p)
		if !slices.Equal(heard.Entries(), tok.Entries()) {
			t.Errorf("hearing changed what was seen")
		}
		for _, e := range p.Entries() {
			if later(heard.Get(e.Database), heard.Heard(e.Database)).Less(e.Position) {
				t.Errorf("did not hear of %v", e)
			}
			if h := heard.Heard(e.Database); h != pos(0, 0) && !heard.Get(e.Database).Less(h) {
				t.Errorf("heard of %v what it has seen", e.Database)
			}
		}
		for _, e := range heard.Past(3).Entries() {
			if e.Database == 3 || e.Position != later(heard.Get(e.Database), heard.Heard(e.Database)) {
				t.Errorf("brings %v along", e)
			}
		}
	})
}

func TestPastForgetsTheOldest(t *testing.T) {
	var p Past
	for i := range MaxPast {
		p, _ = p.With(make1(t, Entry{base.DatabaseID(1000 - i), pos(1, 1)}).Past(1))
	}
	p, none := p.With(make1(t, Entry{1000, pos(1, 2)}).Past(1))
	p, one := p.With(make1(t, Entry{5, pos(1, 1)}).Past(1))
	if none != 0 || one != 1 || len(p.Entries()) != MaxPast || len(p) > MaxPastBytes {
		t.Errorf("forgot %d and %d, keeps %d", none, one, len(p.Entries()))
	}
	if _, kept := positions(p)[999]; kept || positions(p)[1000] != pos(1, 2) || positions(p)[5] != pos(1, 1) {
		t.Errorf("keeps %v", p.Entries())
	}
	if _, err := ParsePast([]byte(p)); err != nil {
		t.Error(err)
	}
}

// TestATokenHearsWhileThereIsRoom: what it has seen itself comes first.
func TestATokenHearsWhileThereIsRoom(t *testing.T) {
	var tok Token
	for i := range base.DatabaseID(MaxDatabases - 1) {
		tok = make1(t, append(tok.Entries(), Entry{100 + i, pos(1, 1)})...)
	}
	p, _ := make1(t, Entry{7, pos(1, 7)}).Past(1).With(make1(t, Entry{8, pos(1, 8)}).Past(1))
	tok = tok.Hear(p)
	if tok.Heard(8) != pos(1, 8) || tok.Heard(7) != pos(0, 0) {
		t.Errorf("heard of 7 %v, of 8 %v", tok.Heard(7), tok.Heard(8))
	}
	tok, err := tok.With(9, pos(1, 9))
	if err != nil || tok.Get(9) != pos(1, 9) || tok.Heard(8) != pos(0, 0) {
		t.Errorf("seen in its place: %v, %v", tok.Entries(), err)
	}
}

// FuzzParsePast: what is accepted is what would have been written.
func FuzzParsePast(f *testing.F) {
	f.Add([]byte(make1(f, Entry{1, pos(1, 1)}, Entry{9, pos(2, 300)}).Past(3)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, appendCheck(append([]byte{pastVersion}, b...))} {
			if p, err := ParsePast(b); err == nil && newPast(p.Entries()) != Past(b) {
				t.Errorf("%x is written as %x", b, newPast(p.Entries()))
			}
		}
	})
}
