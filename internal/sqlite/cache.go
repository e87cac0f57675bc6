package sqlite

// Bounds of what the cache keeps, besides the number of statements.
const (
	maxCachedText  = 64 << 10 // of one statement
	maxCachedTotal = 1 << 20  // of all statements of a connection
)

type cacheKey struct {
	guard Guard
	text  string
}

// statementCache keeps idle statements, the most recently used first. A
// statement in use is not in it, so it is never handed out twice.
type statementCache struct {
	max         int
	bytes       int
	idle        map[cacheKey]*Stmt
	first, last *Stmt
}

func newStatementCache(size int) statementCache {
	return statementCache{max: size, idle: make(map[cacheKey]*Stmt)}
}

// take removes the idle statement of a key, if there is one.
func (c *statementCache) take(k cacheKey) *Stmt {
	s := c.idle[k]
	if s != nil {
		c.remove(s)
	}
	return s
}

// put keeps a statement, or destroys it if its text is too long or another
// with its key is idle already. It may destroy the least recently used.
func (c *statementCache) put(s *Stmt) {
	if _, taken := c.idle[s.key]; taken || len(s.key.text) > maxCachedText {
		s.destroy()
		return
	}
	c.idle[s.key] = s
	c.bytes += len(s.key.text)
	s.next, s.previous = c.first, nil
	if c.first != nil {
		c.first.previous = s
	}
	c.first = s
	if c.last == nil {
		c.last = s
	}
	for len(c.idle) > c.max || c.bytes > maxCachedTotal {
		old := c.last
		c.remove(old)
		old.destroy()
	}
}

func (c *statementCache) remove(s *Stmt) {
	delete(c.idle, s.key)
	c.bytes -= len(s.key.text)
	if s.previous != nil {
		s.previous.next = s.next
	} else {
		c.first = s.next
	}
	if s.next != nil {
		s.next.previous = s.previous
	} else {
		c.last = s.previous
	}
	s.next, s.previous = nil, nil
}

// clear destroys every idle statement.
func (c *statementCache) clear() {
	for c.first != nil {
		s := c.first
		c.remove(s)
		s.destroy()
	}
}
