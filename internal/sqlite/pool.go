package sqlite

import (
	"context"

	"github.com/skeindb/skein/internal/base"
)

// Reader lends a connection with RoleReader. When all are in use it waits in
// turn until ctx is done. Give it back with ReleaseReader.
func (d *Database) Reader(ctx context.Context) (*Conn, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	if err := d.waitReader(ctx); err != nil {
		d.users.Done()
		return nil, err
	}
	if c := d.takeIdle(); c != nil {
		return c, nil
	}
	c, err := d.open(ctx, d.options.conn(RoleReader))
	if err != nil {
		<-d.readers
		d.users.Done()
		return nil, err
	}
	return c, nil
}

func (d *Database) waitReader(ctx context.Context) error {
	if ctx.Err() != nil {
		return interrupted(ctx.Err(), ctx)
	}
	select {
	case d.readers <- struct{}{}:
		return nil
	case <-d.closing:
		return errClosed()
	case <-ctx.Done():
		e := *base.AsError(interrupted(ctx.Err(), ctx))
		e.Hint = "All readers of the database are in use; long queries hold them."
		return &e
	}
}

func (d *Database) takeIdle() *Conn {
	d.state.Lock()
	defer d.state.Unlock()
	n := len(d.state.idle)
	if n == 0 {
		return nil
	}
	c := d.state.idle[n-1]
	d.state.idle = d.state.idle[:n-1]
	d.state.spare = min(d.state.spare, n-1)
	return c
}

// ReleaseReader takes a reader back: rolled back, reset, not interrupted and
// guarded as when it was lent. Its statements must have been closed.
func (d *Database) ReleaseReader(c *Conn) {
	defer d.users.Done()
	defer func() { <-d.readers }()
	c.SetInterrupt(context.Background())
	c.SetGuard(GuardRead)
	err := c.Rollback()
	if err != nil || c.inUse != 0 || c.Broken() || !d.keepIdle(c) {
		_ = c.Close() // a reader has nothing to lose
	}
}

func (d *Database) keepIdle(c *Conn) bool {
	d.state.Lock()
	defer d.state.Unlock()
	if d.state.closed {
		return false
	}
	d.state.idle = append(d.state.idle, c)
	return true
}

// TrimIdle closes the readers that have not been needed since it was last
// called, and returns how many it has closed. Call it now and then.
func (d *Database) TrimIdle() int {
	d.state.Lock()
	n := min(d.state.spare, len(d.state.idle))
	unused := append([]*Conn(nil), d.state.idle[:n]...)
	d.state.idle = append([]*Conn(nil), d.state.idle[n:]...)
	d.state.spare = len(d.state.idle)
	d.state.Unlock()
	_ = closeAll(unused) // a reader has nothing to lose
	return n
}
