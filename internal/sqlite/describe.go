package sqlite

import (
	"container/list"
	"context"
	"sync"

	"github.com/skeindb/skein/internal/session"
)

// Describe tells what a statement is, on this connection's view of the schema.
// Use it within a transaction that has changed the schema; otherwise that of
// Database is faster.
func (c *Conn) Describe(sql string, g Guard) (*session.Description, Info, error) {
	if info, err := c.limits.control(sql); err != nil || isControl(info) {
		return description(info, nil), info, err
	}
	// Only running a statement makes the engine look whether the schema in its
	// memory is still that of the file, and recompiles a cached statement.
	if err := c.RunOwn("SELECT 1 FROM sqlite_schema LIMIT 1"); err != nil {
		return nil, Info{}, err
	}
	if old := c.cache.take(cacheKey{guard: g, text: sql}); old != nil {
		old.destroy()
	}
	s, err := c.prepare(sql, g)
	if err != nil {
		return nil, Info{}, err
	}
	defer s.Close()
	return description(s.info, s.Columns()), s.info, nil
}

func description(i Info, columns []session.Column) *session.Description {
	return &session.Description{Kind: i.Kind, Tag: i.Tag, Params: i.Params, Columns: columns}
}

// isControl says that a statement never reaches the engine from a client.
func isControl(i Info) bool {
	switch i.Kind {
	case session.Empty, session.Begin, session.Commit, session.Rollback, session.Savepoint, session.Setting:
		return true
	}
	return false
}

// control classifies by the leading words, and checks that a control
// statement, which the engine does not get to see, stands alone.
func (l Limits) control(sql string) (Info, error) {
	if err := checkSQL(sql, l.SQLBytes); err != nil {
		return Info{}, err
	}
	info := verbInfo(leadingWords(sql, 6))
	if !isControl(info) {
		return info, nil
	}
	x := lexer{text: sql}
	if info.Kind == session.Empty && !isBlank(sql) {
		return Info{Kind: session.Read}, nil // the engine says what is wrong with it
	}
	for seen := false; ; {
		switch t := x.scan(); t.kind {
		case endOfText:
			return info, nil
		case semicolon:
			if tail := sql[x.next:]; seen && !isBlank(tail) {
				return Info{}, severalStatements(tail)
			}
		default:
			seen = true
		}
	}
}

// Describe tells what a statement is and does not run it. It remembers texts
// until the schema changes; control statements need no schema at all. The
// description is shared: do not change it.
func (d *Database) Describe(ctx context.Context, sql string, g Guard) (*session.Description, Info, error) {
	generation := d.generation.Load()
	key := cacheKey{guard: g, text: sql}
	if found := d.descriptions.get(key, generation); found != nil {
		return found.description, found.info, nil
	}
	if info, err := d.options.Limits.control(sql); err != nil || isControl(info) {
		return description(info, nil), info, err
	}
	c, err := d.Reader(ctx)
	if err != nil {
		return nil, Info{}, err
	}
	defer d.ReleaseReader(c)
	c.SetInterrupt(ctx)
	desc, info, err := c.Describe(sql, g)
	if err != nil {
		return nil, Info{}, err
	}
	d.descriptions.put(&remembered{key: key, generation: generation, description: desc, info: info})
	return desc, info, nil
}

// maxDescribedBytes bounds the text that a cache of descriptions keeps.
const maxDescribedBytes = 4 << 20

type remembered struct {
	key         cacheKey
	generation  int64 // of the schema before it was compiled
	description *session.Description
	info        Info
}

// descriptionCache remembers the most recently used descriptions.
type descriptionCache struct {
	max int

	mu    sync.Mutex // guards the fields below
	bytes int
	byKey map[cacheKey]*list.Element
	order *list.List // of *remembered, the most recently used first
}

func newDescriptionCache(size int) *descriptionCache {
	return &descriptionCache{max: size, byKey: make(map[cacheKey]*list.Element), order: list.New()}
}

func (c *descriptionCache) get(k cacheKey, generation int64) *remembered {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byKey[k]
	if e == nil {
		return nil
	}
	r := e.Value.(*remembered)
	if r.generation != generation {
		c.remove(e)
		return nil
	}
	c.order.MoveToFront(e)
	return r
}

func (c *descriptionCache) put(r *remembered) {
	if len(r.key.text) > maxCachedText {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.byKey[r.key]; old != nil {
		c.remove(old)
	}
	c.byKey[r.key] = c.order.PushFront(r)
	c.bytes += len(r.key.text)
	for c.order.Len() > c.max || c.bytes > maxDescribedBytes {
		c.remove(c.order.Back())
	}
}

func (c *descriptionCache) remove(e *list.Element) {
	r := c.order.Remove(e).(*remembered)
	delete(c.byKey, r.key)
	c.bytes -= len(r.key.text)
}
