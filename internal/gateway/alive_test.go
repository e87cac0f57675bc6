package gateway_test

import (
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// Where nobody can replace a leader that answers nothing, whoever asks it is told
// within seconds, whatever the network's own patience is.
func TestASilentLeaderIsNotWaitedForLong(t *testing.T) {
	run(t, 4, 3, func(t *testing.T, c *cluster) {
		c.session(4).do("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		tx := c.session(3)
		tx.do("BEGIN")
		tx.do("INSERT INTO item VALUES (1)")
		bounded := c.session(2)
		bounded.do("SET skein.read = 'bounded(1ms)'")
		lead := c.record().Leader
		for _, id := range []base.NodeID{2, 3, 4} {
			c.net.Cut(lead, id)
			c.net.Cut(id, lead)
			defer c.net.Heal(lead, id)
			defer c.net.Heal(id, lead)
		}
		time.Sleep(100 * time.Millisecond) // The replica grows old.
		began := time.Now()
		if _, _, err := bounded.try("SELECT * FROM item"); err == nil || time.Since(began) > 6*time.Second {
			t.Errorf("a bounded read after %v: %v", time.Since(began), err)
		}
		began = time.Now()
		_, _, err := tx.try("INSERT INTO item VALUES (2)")
		if e := base.AsError(cmpErr(err)); e.State() != "40001" || e.Outcome == base.Indeterminate || time.Since(began) > 4*time.Second {
			t.Errorf("a transaction after %v: %v", time.Since(began), err)
		}
		tx.do("ROLLBACK")
	})
}

// A leader that works for long on one answer is alive.
func TestABusyLeaderIsWaitedFor(t *testing.T) {
	run(t, 4, 3, func(t *testing.T, c *cluster) {
		s := c.session(4)
		s.do("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		holder := c.session(1)
		holder.do("BEGIN")
		holder.do("INSERT INTO item VALUES (1)")
		done := make(chan error)
		go func() {
			_, _, err := s.try("INSERT INTO item VALUES (2)") // It waits for the writer.
			done <- err
		}()
		time.Sleep(8 * time.Second)
		holder.do("COMMIT")
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
