package leader_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica/leader"
)

// What was acknowledged and undone is told apart from what was only tried: of an
// async database's writes all that had their answer, exactly.
func TestUndoneWritesSayWhetherTheyWereAcknowledged(t *testing.T) {
	policy := func(p *base.Policy) {
		p.Durability.Level, p.AllowLoss = base.Async, true
	}
	run(t, 3, policy, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT)")
		c.write("INSERT INTO item VALUES (1, 'one')")
		c.level()
		c.mute(1, 2)
		c.mute(1, 3)
		c.write("INSERT INTO item VALUES (2, 'lost')") // Within the lease.
		c.write("INSERT INTO item VALUES (3, 'lost')")
		time.Sleep(leader.DefaultLease)
		unanswered := c.pending(1, request("INSERT INTO item VALUES (4, 'tried')"))
		time.Sleep(100 * time.Millisecond)
		c.kill(1)
		<-unanswered
		c.promise(2)
		c.promise(3)
		time.Sleep(leader.DefaultLease)
		c.change(func(a *leader.Assignment) { a.Lossy = true })
		c.appoint(2)
		c.heal(1, 2)
		c.heal(1, 3)
		c.write("INSERT INTO item VALUES (2, 'kept')")
		c.open(1)
		c.same()
		list, err := c.replica(1).Orphans(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, o := range list {
			got += fmt.Sprintf("%s %s=%s acknowledged %s; ", o.Operation, o.RowIDName, word(o.Key[0]), word(o.Acknowledged))
		}
		want := "insert id=4 acknowledged 0; insert id=3 acknowledged 1; insert id=2 acknowledged 1; "
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if s := c.replica(1).Status(); s.Orphans != 3 || s.OrphansAcknowledged != 2 {
			t.Errorf("%d orphans, %d acknowledged", s.Orphans, s.OrphansAcknowledged)
		}
		if err := c.replica(1).DropOrphan(t.Context(), list[0].Epoch, list[0].Seq); err != nil {
			t.Fatal(err)
		}
		if s := c.replica(1).Status(); s.Orphans != 2 {
			t.Errorf("%d orphans after one was dropped", s.Orphans)
		}
	})
}

// What a majority has is safe, and what it has not is not acknowledged: nothing
// is noted, and the verdict is clear all the same.
func TestUndoneWritesOfAQuorumWereNotAcknowledged(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY)")
		c.level()
		c.mute(1, 2)
		c.mute(1, 3)
		lost := c.pending(1, request("INSERT INTO item VALUES (1)"))
		time.Sleep(100 * time.Millisecond)
		c.elect(2, 3)
		<-lost
		c.heal(1, 2)
		c.heal(1, 3)
		c.same()
		list, err := c.replica(1).Orphans(t.Context(), 100)
		if err != nil || len(list) != 1 || word(list[0].Acknowledged) != "0" {
			t.Errorf("got %+v, %v", list, err)
		}
	})
}

// After a power cut the file may lie behind the log, before its tables were made:
// what is undone then has its columns' names all the same.
func TestUndoneWritesHaveNamesAfterAPowerCut(t *testing.T) {
	policy := func(p *base.Policy) {
		p.Durability.Level, p.AllowLoss = base.Async, true
	}
	run(t, 3, policy, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT)")
		c.level()
		c.mute(1, 2)
		c.mute(1, 3)
		c.write("INSERT INTO item VALUES (1, 'lost')") // Within the lease.
		c.write("ALTER TABLE item ADD COLUMN price")
		c.write("INSERT INTO item VALUES (2, 'lost', 3)")
		c.write("CREATE TABLE late(a)")
		c.write("INSERT INTO late VALUES (4)")
		c.kill(1)
		for _, suffix := range []string{"-wal", "-shm"} {
			if err := os.Remove(c.file(1) + suffix); err != nil {
				t.Fatal(err)
			}
		}
		c.promise(2)
		c.promise(3)
		time.Sleep(leader.DefaultLease)
		c.change(func(a *leader.Assignment) { a.Lossy = true })
		c.appoint(2)
		c.heal(1, 2)
		c.heal(1, 3)
		c.open(1)
		c.same()
		list, err := c.replica(1).Orphans(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, o := range list {
			got += fmt.Sprintf("%s %s: %s, rowid %s; ", o.Operation, o.Table, strings.Join(o.Columns, " "), o.RowIDName)
		}
		want := "insert late: a, rowid ; schema : , rowid ; insert item: name price, rowid id; schema : , rowid ; insert item: name price, rowid id; "
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}
