package changelog

import (
	"sort"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
)

// tailCache holds the last batches, without a gap. Their frames are never
// changed, so that readers use them without a lock.
type tailCache struct {
	limit int
	bytes int
	parts []part
}

// add takes in the batch that follows the last one and drops the oldest ones
// that no longer fit.
func (c *tailCache) add(p part) {
	if p.length > c.limit {
		c.clear()
		return
	}
	c.parts = append(c.parts, p)
	c.bytes += p.length
	drop := 0
	for ; c.bytes > c.limit; drop++ {
		c.bytes -= c.parts[drop].length
		c.parts[drop] = part{}
	}
	c.parts = c.parts[drop:]
}

func (c *tailCache) clear() {
	c.parts, c.bytes = nil, 0
}

// from fills into with the batches from the one that holds seq on, as many as
// fit it and as maxBytes asks for. It returns none when seq is not cached.
func (c *tailCache) from(seq base.Seq, maxBytes int, into []part) []part {
	if len(c.parts) == 0 || seq < c.parts[0].first {
		return nil
	}
	i := sort.Search(len(c.parts), func(i int) bool { return c.parts[i].last >= seq })
	total := 0
	for ; i < len(c.parts) && len(into) < cap(into) && total < maxBytes; i++ {
		into = append(into, c.parts[i])
		total += c.parts[i].length
	}
	return into
}

// assemble copies into buf entries of parts from the one that starts at seq,
// at most maxBytes unless the first alone is larger.
func assemble(parts []part, seq base.Seq, maxBytes int, buf []byte) (frames []byte, last base.Seq, err error) {
	frames = buf[:0]
	for i, p := range parts {
		some, end, err := cut(p, max(seq, p.first), maxBytes-len(frames))
		if err != nil {
			return nil, 0, err
		}
		if i > 0 && len(frames)+len(some) > maxBytes {
			break
		}
		frames, last = append(frames, some...), end
		if end < p.last {
			break
		}
	}
	return frames, last, nil
}

// cut returns the entries of p from the one that starts at seq, at least one.
func cut(p part, seq base.Seq, maxBytes int) (frames []byte, last base.Seq, err error) {
	if seq == p.first && p.length <= maxBytes {
		return p.frames, p.last, nil
	}
	begin := -1
	for at := 0; at < p.length; {
		e, n, err := entry.Peek(p.frames[at:])
		if err != nil {
			return nil, 0, err
		}
		if e.First == seq {
			begin = at
		}
		if begin < 0 && e.First > seq {
			return nil, 0, ErrNotEntry
		}
		if begin >= 0 && at > begin && at+n-begin > maxBytes {
			return p.frames[begin:at], last, nil
		}
		last = e.Last()
		at += n
	}
	if begin < 0 {
		return nil, 0, ErrNotEntry
	}
	return p.frames[begin:], last, nil
}
