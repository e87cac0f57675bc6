package leader_test

import (
	"sync"
	"testing"
	"time"
)

// The bounds that docs/performance.md tells of.
const (
	gatherTime  = 1200 * time.Microsecond
	gatherPause = 100 * time.Microsecond
)

// insertTogether has clients insert a row each, one every so often.
func (c *cluster) insertTogether(clients int, every time.Duration) {
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			time.Sleep(time.Duration(client) * every)
			if _, err := c.try(1, request("INSERT INTO item VALUES (NULL)")); err != nil {
				c.t.Error(err)
			}
		})
	}
	wg.Wait()
}

// Clients that come back one after another are waited for while most are still
// to come, and the write that comes alone afterwards waits for nobody.
func TestABatchWaitsForThoseWhoComeBack(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		const clients, rounds = 32, 40
		for range rounds {
			c.insertTogether(clients, 0)
		}
		begun := c.member(1).files.logWrites.Load()
		for range rounds {
			c.insertTogether(clients, 10*time.Microsecond)
		}
		if n := c.member(1).files.logWrites.Load() - begun; n > 2*rounds {
			t.Errorf("%d rounds of %d clients took %d batches", rounds, clients, n)
		}
		for range 40 {
			c.write("INSERT INTO item VALUES (NULL)")
		}
		at := time.Now()
		c.write("INSERT INTO item VALUES (NULL)")
		if took := time.Since(at); took >= gatherPause {
			t.Errorf("a write that comes alone took %v", took)
		}
		c.expect(1, "SELECT count(*) FROM item", "2601")
	})
}

// However many clients there were, who comes waits for others no longer than
// the bound.
func TestABatchWaitsNoLongerThanItsBound(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		for range 30 {
			c.insertTogether(64, 0)
		}
		at := time.Now()
		c.write("INSERT INTO item VALUES (NULL)")
		if took := time.Since(at); took < gatherPause || took > gatherTime+gatherPause {
			t.Errorf("the only client that came back waited %v", took)
		}
	})
}
