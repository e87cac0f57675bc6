package sqlite

// PrepareOwn is Prepare for our own SQL: under GuardOwn, whatever the guard of
// the statements prepared next is. A statement that is kept open rather than
// closed stays compiled and belongs to its holder alone.
func (c *Conn) PrepareOwn(sql string) (*Stmt, error) { return c.prepare(sql, GuardOwn) }
