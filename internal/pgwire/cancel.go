package pgwire

import (
	"crypto/subtle"
	"sync/atomic"
)

// interruption is what other goroutines may do to a connection. How far it is
// to end is written once and read by the connection's own goroutine whenever
// it is about to wait for its client.
type interruption struct {
	ending atomic.Uint32
}

const (
	keepGoing uint32 = iota
	endIdle          // end when no transaction is open
	endNow           // end after what runs now
)

// ownsKey compares in constant time.
func (c *conn) ownsKey(key []byte) bool {
	return subtle.ConstantTimeCompare(c.key, key) == 1
}

// interrupt stops the statement that runs now, if one does.
func (c *conn) interrupt() {
	c.sess.Cancel()
}

// drain ends the connection as soon as it is idle.
func (c *conn) drain() {
	c.ending.CompareAndSwap(keepGoing, endIdle)
	c.wake()
}

// end interrupts what runs and ends the connection.
func (c *conn) end() {
	c.ending.Store(endNow)
	c.cancel(errShutdown)
	c.wake()
}

// wake makes a blocked read return, so that the connection looks at ending.
func (c *conn) wake() { c.raw.SetReadDeadline(aLongTimeAgo) }
