package sqlite

// PrepareOwn is Prepare for our own SQL: under GuardOwn, whatever the guard of
// the statements prepared next is. A statement that is kept open rather than
// closed stays compiled and belongs to its holder alone.
func (c *Conn) PrepareOwn(sql string) (*Stmt, error) { return c.prepare(sql, GuardOwn) }

// BlobWrite returns the column that blob I/O is about to write, and -1 for
// every ordinary change. Such a write comes as a Delete, and what it writes
// cannot be read yet: full-text tables change their settings in this way.
func (p *PreUpdate) BlobWrite() int { return p.data.BlobWrite() }
