// Package token holds what a client has seen: a position per database, as one
// short text that is safe in a header, a URL and a SET. Beside what it has seen
// itself it holds what it has heard of: positions of other databases that whoever
// wrote what it has seen had seen before. Past is how those come along with a
// write, and stay with the database it went to.
//
// It is pure and imports base alone. A Token is a value: every method that
// changes something returns another one. Its text is deterministic (equal
// tokens have equal texts), carries a version and a checksum, and is bounded:
// at most MaxDatabases databases and MaxText bytes, and every token that can be
// made can be parsed. docs/format/token.md describes it. A token is not secret
// and not signed: a made-up one can only make its own client wait, or be told
// that its history is lost.
package token

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"slices"

	"github.com/skeindb/skein/internal/base"
)

const (
	// MaxDatabases is how many databases one token may span.
	MaxDatabases = 64
	// MaxText is the length of the longest text that is parsed.
	MaxText = (maxBytes*8 + 5) / 6

	maxEntry = 10 + 1 + 4*10
	maxBytes = 1 + MaxDatabases*maxEntry + checkSize

	version      = 1
	kindPosition = 1 // an entry's kind: a position that was seen; clocks will have another
	kindHeard    = 2 // a position that was heard of
	kindBoth     = 3 // one that was seen and a later one that was heard of
	checkSize    = 3
)

// Entry is one database of a token.
type Entry struct {
	Database base.DatabaseID
	Position base.Position
}

// known is what a token has of one database.
type known struct {
	database base.DatabaseID
	seen     base.Position // zero: nothing
	heard    base.Position // zero, or later than seen
}

// Token is a set of databases and positions. The zero Token has seen nothing.
type Token struct {
	entries []known // sorted by database, each once, none with nothing; never changed in place
}

// Entries returns the databases that were seen, in rising order. The slice is
// the caller's.
func (t Token) Entries() []Entry {
	var list []Entry
	for _, k := range t.entries {
		if k.seen != (base.Position{}) {
			list = append(list, Entry{k.database, k.seen})
		}
	}
	return list
}

// Databases is how many were seen or heard of.
func (t Token) Databases() int { return len(t.entries) }

// KnowsOthers says whether another database than own was seen or heard of.
func (t Token) KnowsOthers(own base.DatabaseID) bool {
	return len(t.entries) > 1 || len(t.entries) == 1 && t.entries[0].database != own
}

// Empty says whether nothing was seen or heard of.
func (t Token) Empty() bool { return len(t.entries) == 0 }

// Get returns what was seen of a database; the zero Position when nothing was.
func (t Token) Get(db base.DatabaseID) base.Position {
	if i, ok := t.find(db); ok {
		return t.entries[i].seen
	}
	return base.Position{}
}

// Heard returns what was heard of a database beyond what was seen; the zero
// Position when nothing was.
func (t Token) Heard(db base.DatabaseID) base.Position {
	if i, ok := t.find(db); ok {
		return t.entries[i].heard
	}
	return base.Position{}
}

func (t Token) find(db base.DatabaseID) (int, bool) {
	return slices.BinarySearchFunc(t.entries, db, func(k known, d base.DatabaseID) int { return cmp.Compare(k.database, d) })
}

// With returns t after a position was seen, too: the later of both counts. It
// takes the place of one that was only heard of when there is no other, and
// fails (KindTooLarge) when there is none: that is one database too many.
func (t Token) With(db base.DatabaseID, p base.Position) (Token, error) {
	i, ok := t.find(db)
	switch {
	case p == (base.Position{}), ok && !t.entries[i].seen.Less(p):
		return t, nil
	case ok:
		entries := slices.Clone(t.entries)
		entries[i].seen = p
		if !p.Less(entries[i].heard) {
			entries[i].heard = base.Position{}
		}
		return Token{entries}, nil
	case len(t.entries) < MaxDatabases:
		return Token{slices.Insert(slices.Clone(t.entries), i, known{database: db, seen: p})}, nil
	}
	only := slices.IndexFunc(t.entries, func(k known) bool { return k.seen == (base.Position{}) })
	if only < 0 {
		return t, base.Errorf(base.KindTooLarge, "token: more than %d databases", MaxDatabases).
			WithHint("use one session for fewer databases, or start with an empty token")
	}
	return t.Without(t.entries[only].database).With(db, p)
}

// hear returns t after a position was heard of. There may be no room for that.
func (t Token) hear(db base.DatabaseID, p base.Position) Token {
	i, ok := t.find(db)
	switch {
	case p == (base.Position{}), ok && !(t.entries[i].seen.Less(p) && t.entries[i].heard.Less(p)):
		return t
	case ok:
		entries := slices.Clone(t.entries)
		entries[i].heard = p
		return Token{entries}
	case len(t.entries) == MaxDatabases:
		return t
	}
	return Token{slices.Insert(slices.Clone(t.entries), i, known{database: db, heard: p})}
}

// Without returns t without a database, for one that was dropped.
func (t Token) Without(db base.DatabaseID) Token {
	i, ok := t.find(db)
	if !ok {
		return t
	}
	return Token{slices.Delete(slices.Clone(t.entries), i, i+1)}
}

// Merge returns a token that has seen and heard of what both have: per database
// the later position, a later epoch being later. It fails as With does.
func (t Token) Merge(u Token) (Token, error) {
	for _, k := range u.entries {
		var err error
		if t, err = t.With(k.database, k.seen); err != nil {
			return t, err
		}
	}
	for _, k := range u.entries {
		t = t.hear(k.database, k.heard)
	}
	return t, nil
}

// String returns the token's text; "" for an empty one.
func (t Token) String() string {
	if t.Empty() {
		return ""
	}
	b := append(make([]byte, 0, 1+len(t.entries)*8+checkSize), version)
	last := base.DatabaseID(0)
	for _, k := range t.entries {
		b = binary.AppendUvarint(b, uint64(k.database-last))
		switch {
		case k.heard == (base.Position{}):
			b = appendPosition(append(b, kindPosition), k.seen)
		case k.seen == (base.Position{}):
			b = appendPosition(append(b, kindHeard), k.heard)
		default:
			b = appendPosition(appendPosition(append(b, kindBoth), k.seen), k.heard)
		}
		last = k.database
	}
	b = appendCheck(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

func appendPosition(b []byte, p base.Position) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(p.Epoch)), uint64(p.Seq))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendCheck(b []byte) []byte {
	c := crc32.Checksum(b, castagnoli)
	return append(b, byte(c), byte(c>>8), byte(c>>16))
}

func invalid(format string, args ...any) error {
	return base.Errorf(base.KindInvalid, "token: "+format, args...).
		WithHint("pass on the token of an earlier reply as it is, or none")
}

// Parse reads what String wrote; "" is the empty token. Anything else fails
// with KindInvalid.
func Parse(s string) (Token, error) {
	if s == "" {
		return Token{}, nil
	}
	if len(s) > MaxText {
		return Token{}, invalid("longer than %d bytes", MaxText)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || slices.ContainsFunc([]byte(s), func(c byte) bool { return c == '\n' || c == '\r' }) {
		return Token{}, invalid("not in base64url")
	}
	if len(b) < 1+checkSize {
		return Token{}, invalid("too short")
	}
	body := b[:len(b)-checkSize]
	if !slices.Equal(appendCheck(slices.Clone(body))[len(body):], b[len(body):]) {
		return Token{}, invalid("bad checksum")
	}
	if body[0] != version {
		return Token{}, invalid("version %d is not known here", body[0])
	}
	return parseEntries(body[1:])
}

func parseEntries(b []byte) (Token, error) {
	var t Token
	last := base.DatabaseID(0)
	for len(b) > 0 {
		if len(t.entries) == MaxDatabases {
			return Token{}, invalid("more than %d databases", MaxDatabases)
		}
		k, rest, err := parseEntry(b, last)
		if err != nil {
			return Token{}, err
		}
		t.entries, last, b = append(t.entries, k), k.database, rest
	}
	if t.Empty() {
		return Token{}, invalid("empty")
	}
	return t, nil
}

func parseEntry(b []byte, last base.DatabaseID) (k known, rest []byte, err error) {
	delta, b, ok := uvarint(b)
	k.database = last + base.DatabaseID(delta)
	if !ok || k.database <= last || len(b) == 0 {
		return k, nil, invalid("bad database")
	}
	kind, b := b[0], b[1:]
	if kind < kindPosition || kind > kindBoth {
		return k, nil, invalid("kind %d of database %d is not known here", kind, k.database)
	}
	if kind != kindHeard {
		if k.seen, b, ok = parsePosition(b); !ok {
			return k, nil, invalid("bad position")
		}
	}
	if kind != kindPosition {
		if k.heard, b, ok = parsePosition(b); !ok || !k.seen.Less(k.heard) {
			return k, nil, invalid("bad position that was heard of")
		}
	}
	return k, b, nil
}

// parsePosition refuses the zero position.
func parsePosition(b []byte) (p base.Position, rest []byte, ok bool) {
	epoch, b, ok := uvarint(b)
	if !ok {
		return p, nil, false
	}
	seq, b, ok := uvarint(b)
	p = base.Position{Epoch: base.Epoch(epoch), Seq: base.Seq(seq)}
	return p, b, ok && p != (base.Position{})
}

// uvarint reads the shortest form of a number only, so that equal tokens have
// equal texts.
func uvarint(b []byte) (uint64, []byte, bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}
