package token

import (
	"encoding/binary"
	"slices"

	"github.com/skeindb/skein/internal/base"
)

// MaxPast is how many databases a Past remembers, and MaxPastBytes bounds it.
const (
	MaxPast      = MaxDatabases
	MaxPastBytes = 1 + MaxPast*3*10 + checkSize

	pastVersion = 1
)

// Past is what the writers of a database have seen of other databases, each
// before it wrote: for each the latest position, the databases in the order in
// which they were noted last. It is a value in its encoded form, so that it is
// carried and compared at no cost; "" is the empty one. Those that a program
// holds are valid: what comes from outside goes through ParsePast.
//
// Beyond MaxPast databases those are forgotten that were noted longest ago.
type Past string

// Past returns what t has seen and heard of databases other than own, into which
// its session is about to write.
func (t Token) Past(own base.DatabaseID) Past {
	if !t.KnowsOthers(own) {
		return ""
	}
	var list []Entry
	for _, k := range t.entries {
		if k.database != own {
			list = append(list, Entry{k.database, later(k.seen, k.heard)})
		}
	}
	return newPast(list)
}

// Hear returns t after its session has seen a database with a past: everything
// in that counts as heard of, as far as there is room; what was noted last has
// it first.
func (t Token) Hear(p Past) Token {
	for _, e := range slices.Backward(p.Entries()) {
		t = t.hear(e.Database, e.Position)
	}
	return t
}

// With returns p after q was noted, too, and how many databases there was no
// room for any more. Whoever notes the same in the same order has the same past.
func (p Past) With(q Past) (_ Past, forgotten int) {
	if q == "" {
		return p, 0
	}
	list := p.Entries()
	for _, e := range q.Entries() {
		if i := slices.IndexFunc(list, func(l Entry) bool { return l.Database == e.Database }); i >= 0 {
			e.Position = later(e.Position, list[i].Position)
			list = slices.Delete(list, i, i+1)
		}
		list = append(list, e)
	}
	forgotten = max(0, len(list)-MaxPast)
	return newPast(list[forgotten:]), forgotten
}

// Beyond returns what p has and q has not.
func (p Past) Beyond(q Past) Past {
	if p == "" || q == "" {
		return p
	}
	list := q.Entries()
	return newPast(slices.DeleteFunc(p.Entries(), func(e Entry) bool {
		i := slices.IndexFunc(list, func(l Entry) bool { return l.Database == e.Database })
		return i >= 0 && !list[i].Position.Less(e.Position)
	}))
}

// Entries returns the databases, the one that was noted last at the end.
func (p Past) Entries() []Entry {
	list, _ := parsePast([]byte(p)) // It is valid.
	return list
}

// ParsePast checks what was stored or has travelled; nothing is the empty past.
func ParsePast(b []byte) (Past, error) {
	if _, err := parsePast(b); err != nil {
		return "", err
	}
	return Past(b), nil
}

func newPast(list []Entry) Past {
	if len(list) == 0 {
		return ""
	}
	b := append(make([]byte, 0, 1+len(list)*8+checkSize), pastVersion)
	for _, e := range list {
		b = appendPosition(binary.AppendUvarint(b, uint64(e.Database)), e.Position)
	}
	return Past(appendCheck(b))
}

func parsePast(b []byte) (list []Entry, err error) {
	if len(b) == 0 {
		return nil, nil
	}
	bad := func(what string) error { return base.Errorf(base.KindCorrupt, "past of a database: %s", what) }
	if len(b) <= 1+checkSize || len(b) > MaxPastBytes {
		return nil, bad("bad length")
	}
	body := b[:len(b)-checkSize]
	if !slices.Equal(appendCheck(slices.Clone(body))[len(body):], b[len(body):]) {
		return nil, bad("bad checksum")
	}
	if body[0] != pastVersion {
		return nil, base.Errorf(base.KindUnsupported, "past of a database: version %d is not known here", body[0])
	}
	for body = body[1:]; len(body) > 0; {
		id, rest, _ := uvarint(body) // Nothing follows a bad number.
		e := Entry{Database: base.DatabaseID(id)}
		var ok bool
		if e.Position, body, ok = parsePosition(rest); !ok || id == 0 {
			return nil, bad("bad entry")
		}
		if len(list) == MaxPast || slices.ContainsFunc(list, func(l Entry) bool { return l.Database == e.Database }) {
			return nil, bad("too many entries, or one twice")
		}
		list = append(list, e)
	}
	return list, nil
}

func later(a, b base.Position) base.Position {
	if a.Less(b) {
		return b
	}
	return a
}
