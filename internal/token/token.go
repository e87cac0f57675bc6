// Package token holds what a client has seen: a position per database, as one
// short text that is safe in a header, a URL and a SET.
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

	maxEntry = 10 + 1 + 10 + 10
	maxBytes = 1 + MaxDatabases*maxEntry + checkSize

	version      = 1
	kindPosition = 1 // an entry's kind; clocks will have another
	checkSize    = 3
)

// Entry is one database of a token.
type Entry struct {
	Database base.DatabaseID
	Position base.Position
}

// Token is a set of databases and positions. The zero Token has seen nothing.
type Token struct {
	entries []Entry // sorted by database, each once, no zero positions; never changed in place
}

// Entries returns the databases in rising order. The slice is the caller's.
func (t Token) Entries() []Entry { return slices.Clone(t.entries) }

// Empty says whether nothing was seen.
func (t Token) Empty() bool { return len(t.entries) == 0 }

// Get returns what was seen of a database; the zero Position when nothing was.
func (t Token) Get(db base.DatabaseID) base.Position {
	if i, ok := t.find(db); ok {
		return t.entries[i].Position
	}
	return base.Position{}
}

func (t Token) find(db base.DatabaseID) (int, bool) {
	return slices.BinarySearchFunc(t.entries, db, func(e Entry, d base.DatabaseID) int { return cmp.Compare(e.Database, d) })
}

// With returns t after a position was seen, too: the later of both counts. It
// fails (KindTooLarge) when that would be one database too many.
func (t Token) With(db base.DatabaseID, p base.Position) (Token, error) {
	i, ok := t.find(db)
	switch {
	case p == (base.Position{}), ok && !t.entries[i].Position.Less(p):
		return t, nil
	case ok:
		entries := slices.Clone(t.entries)
		entries[i].Position = p
		return Token{entries}, nil
	case len(t.entries) == MaxDatabases:
		return t, base.Errorf(base.KindTooLarge, "token: more than %d databases", MaxDatabases).
			WithHint("use one session for fewer databases, or start with an empty token")
	}
	return Token{slices.Insert(slices.Clone(t.entries), i, Entry{Database: db, Position: p})}, nil
}

// Without returns t without a database, for one that was dropped.
func (t Token) Without(db base.DatabaseID) Token {
	i, ok := t.find(db)
	if !ok {
		return t
	}
	return Token{slices.Delete(slices.Clone(t.entries), i, i+1)}
}

// Merge returns a token that has seen what both have: per database the later
// position, a later epoch being later. It fails as With does.
func (t Token) Merge(u Token) (Token, error) {
	for _, e := range u.entries {
		var err error
		if t, err = t.With(e.Database, e.Position); err != nil {
			return t, err
		}
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
	for _, e := range t.entries {
		b = binary.AppendUvarint(b, uint64(e.Database-last))
		b = append(b, kindPosition)
		b = binary.AppendUvarint(b, uint64(e.Position.Epoch))
		b = binary.AppendUvarint(b, uint64(e.Position.Seq))
		last = e.Database
	}
	b = appendCheck(b)
	return base64.RawURLEncoding.EncodeToString(b)
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
		e, rest, err := parseEntry(b, last)
		if err != nil {
			return Token{}, err
		}
		t.entries, last, b = append(t.entries, e), e.Database, rest
	}
	if t.Empty() {
		return Token{}, invalid("empty")
	}
	return t, nil
}

func parseEntry(b []byte, last base.DatabaseID) (Entry, []byte, error) {
	delta, b, ok := uvarint(b)
	db := last + base.DatabaseID(delta)
	if !ok || db <= last || len(b) == 0 {
		return Entry{}, nil, invalid("bad database")
	}
	if b[0] != kindPosition {
		return Entry{}, nil, invalid("kind %d of database %d is not known here", b[0], db)
	}
	epoch, b, ok := uvarint(b[1:])
	if !ok {
		return Entry{}, nil, invalid("bad epoch")
	}
	seq, b, ok := uvarint(b)
	if !ok || epoch == 0 && seq == 0 {
		return Entry{}, nil, invalid("bad seq")
	}
	return Entry{Database: db, Position: base.Position{Epoch: base.Epoch(epoch), Seq: base.Seq(seq)}}, b, nil
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
