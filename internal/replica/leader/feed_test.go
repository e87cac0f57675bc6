package leader_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
)

var errEnough = errors.New("enough")

// sink collects events, and ends the stream when it has enough of them.
type sink struct {
	mu     sync.Mutex // guards the rest
	events []changefeed.Event
	beats  int
	enough func(s *sink) bool
}

func (s *sink) Send(e *changefeed.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Op == changefeed.Heartbeat {
		s.beats++
	} else {
		s.events = append(s.events, *e)
	}
	if s.enough != nil && s.enough(s) {
		return errEnough
	}
	return nil
}

func (s *sink) Flush() error { return nil }

func (s *sink) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.events)
}

// events reads n events from a node's replica.
func (c *cluster) events(id base.NodeID, q changefeed.Request, n int) []changefeed.Event {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s := &sink{enough: func(s *sink) bool { return len(s.events) >= n || s.beats > 10 }}
	err := c.replica(id).Feed(ctx, q, time.Second, s)
	if !errors.Is(err, errEnough) {
		c.t.Fatalf("node %d: stream of changes: %v after %d events", id, err, len(s.events))
	}
	return s.events
}

func eventLine(e changefeed.Event) string {
	if e.Op == changefeed.Schema {
		return fmt.Sprintf("%v %s", e.Position, strings.ToLower(e.SQL))
	}
	return fmt.Sprintf("%v %s %s %s: %s > %s [%d %d/%d]", e.Position, e.Op, e.Table, rowWords(e.Key), rowWords(e.Before), rowWords(e.After), e.First, e.Order, e.TableOrder)
}

func eventLines(events []changefeed.Event) []string {
	var lines []string
	for _, e := range events {
		lines = append(lines, eventLine(e))
	}
	return lines
}

// feedStory has every kind of change, a schema that changes between rows, and
// transactions of several rows.
func feedStory(c *cluster) {
	for _, sql := range []string{
		"create table t(a, id integer primary key, b as (a || '!'), c)",
		"create table w(x, k text primary key) without rowid",
		"create table auto(id integer primary key autoincrement, v)",
		"create table plain(v)",
		"insert into t(a, id, c) values ('one', 7, 1.5), ('two', 8, NULL)",
		"insert into w values (x'00ff', 'key'), (1, 'other')",
		"update t set a = 'zwei' where id = 8",
		"alter table t rename column a to z",
		"update t set z = 'drei', id = 9 where id = 8",
		"alter table t add column d default 'new'",
		"update t set d = NULL",
		"insert into auto(v) values (1), (2)",
		"delete from w where k = 'key'",
		"alter table w rename to v",
		"update v set k = 'moved'",
		"insert into plain values (9223372036854775807)",
		"create index i on t(z)",
		"delete from t",
		"drop table t",
		"create table t(other)",
		"insert into t values ('again')",
	} {
		c.write(sql)
	}
	c.level()
}

const storyEvents = 26

// TestFeedTellsTheStory reads it from each replica, from the first change on.
func TestFeedTellsTheStory(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("create table first(x)")
		c.level()
		start := c.events(1, changefeed.Request{}, 1)
		if len(start) != 0 {
			t.Fatalf("a snapshot of an empty table: %v", eventLines(start))
		}
		q := changefeed.Request{From: c.startOffset()}
		feedStory(c)
		var want []string
		for _, id := range c.ids() {
			got := c.events(id, q, storyEvents+100)
			lines := eventLines(got)
			if want == nil {
				want = lines
				t.Log(strings.Join(lines, "\n"))
			}
			if !slices.Equal(lines, want) {
				t.Errorf("node %d tells another story:\n%s", id, strings.Join(lines, "\n"))
			}
			if len(got) != storyEvents+1 { // And the first table.
				t.Errorf("node %d: %d events, want %d", id, len(got), storyEvents)
			}
		}
		for _, part := range []string{
			"c t id=7: - > a=one,id=7,c=1.5 [", "u t id=8: a=two,id=8,c=NULL > a=zwei,id=8,c=NULL [",
			"u t id=8: z=zwei,id=8,c=NULL > z=drei,id=9,c=NULL [", "u t id=7: z=one,id=7,c=1.5,d=new > z=one,id=7,c=1.5,d=NULL [",
			"d w k=key: x=\x00\xff,k=key > - [", "c plain rowid=1: - > v=9223372036854775807 [", "c t rowid=1: - > other=again [",
			"d t id=9: z=drei,id=9,c=NULL,d=NULL > - [", "c auto id=2: - > id=2,v=2 [",
		} {
			if !slices.ContainsFunc(want, func(l string) bool { return strings.Contains(l, part) }) {
				t.Errorf("the story lacks %q", part)
			}
		}
		// Only one table, by any spelling.
		q.Tables = []string{"PLAIN"}
		for _, e := range c.events(2, q, storyEvents) {
			if e.Op != changefeed.Schema && e.Table != "plain" {
				t.Errorf("not asked for: %s", eventLine(e))
			}
		}
	})
}

// startOffset is the place before the first entry of the log.
func (c *cluster) startOffset() changefeed.Offset {
	return changefeed.Offset{Database: database, Entry: 1}
}

// TestFeedResumesAtEveryEvent goes on behind each event in turn, at another
// node: nothing is lost or repeated, within transactions, too.
func TestFeedResumesAtEveryEvent(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		q := changefeed.Request{From: c.startOffset()}
		feedStory(c)
		all := c.events(1, q, storyEvents+100)
		want := eventLines(all)
		for i, e := range all {
			text := e.Offset.String()
			from, err := changefeed.ParseOffset(text)
			if err != nil {
				t.Fatal(err)
			}
			got := eventLines(c.events(base.NodeID(i%3+1), changefeed.Request{From: from}, storyEvents+100))
			if !slices.Equal(got, want[i+1:]) {
				t.Errorf("behind event %d, %s:\n%s\nwant\n%s", i, want[i], strings.Join(got, "\n"), strings.Join(want[i+1:], "\n"))
			}
		}
	})
}

// TestFeedBeginsWithASnapshot sees that snapshot and stream join exactly, while
// others write: what the events make is what the table holds.
func TestFeedBeginsWithASnapshot(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("create table t(id integer primary key, v)")
		for i := range 50 {
			c.write("insert into t values (?1, 0)", i)
		}
		c.level() // Else the snapshot may be of an empty database.
		var writing sync.WaitGroup
		writing.Go(func() {
			for i := range 60 {
				c.write("update t set v = v + 1 where id % 7 = ?1", i%7)
				c.write("delete from t where id = ?1", i+3)
				c.write("insert or replace into t values (?1, 100)", 2*i)
			}
		})
		s := &sink{}
		ctx, cancel := context.WithCancel(context.Background())
		var reading sync.WaitGroup
		reading.Go(func() {
			if err := c.replica(2).Feed(ctx, changefeed.Request{}, time.Second, s); !errors.Is(err, context.Canceled) {
				t.Errorf("stream: %v", err)
			}
		})
		writing.Wait()
		c.level()
		time.Sleep(2 * time.Second) // Of virtual time: what is to be sent has been.
		cancel()
		reading.Wait()
		table := map[string]string{}
		last := 0
		for i, e := range s.events {
			if e.Op == changefeed.Read && e.Last {
				last = i
			}
			if before, had := table[rowWords(e.Key)], e.Before != nil; e.Op != changefeed.Schema && had && before != rowWords(e.Before) {
				t.Errorf("%s, but the row was %s", eventLine(e), before)
			}
			switch e.Op {
			case changefeed.Create, changefeed.Update, changefeed.Read:
				table[rowWords(e.Key)] = rowWords(e.After)
			case changefeed.Delete:
				delete(table, rowWords(e.Key))
			}
		}
		if last == 0 || s.events[last].Offset.Snapshot || !s.events[last-1].Offset.Snapshot {
			t.Errorf("the snapshot's end is event %d of %d", last, len(s.events))
		}
		var rows []string
		for _, k := range slices.Sorted(maps.Keys(table)) {
			rows = append(rows, table[k])
		}
		want := strings.Split(c.read(1, "select 'id=' || id, 'v=' || v from t order by 'id=' || id"), ";")
		if !slices.Equal(rows, want) {
			t.Errorf("the events make\n%v, the table holds\n%v", rows, want)
		}
	})
}

// TestFeedSendsOnlyWhatIsSafe writes at a leader that reaches nobody, which
// must not be told to anyone, and is undone.
func TestFeedSendsOnlyWhatIsSafe(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("create table t(v)")
		c.write("insert into t values ('kept')")
		c.level()
		s := &sink{}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var reading sync.WaitGroup
		reading.Go(func() { _ = c.replica(1).Feed(ctx, changefeed.Request{From: c.startOffset()}, time.Second, s) })
		c.eventually("the first events", func() bool { return s.len() == 2 })
		c.mute(1, 2)
		c.mute(1, 3)
		short, done := context.WithTimeout(context.Background(), time.Second)
		defer done()
		if _, err := c.replica(1).Write(short, request("insert into t values ('lost')")); err == nil {
			t.Fatal("a write that nobody else has was acknowledged")
		}
		if s.len() != 2 {
			t.Errorf("sent what is not safe: %s", eventLine(s.events[2]))
		}
		c.kill(1)
		cancel()
		reading.Wait()
		offset := s.events[1].Offset
		c.elect(2, 3)
		c.write("insert into t values ('after')")
		for _, id := range []base.NodeID{2, 3} {
			got := c.events(id, changefeed.Request{From: offset}, 1)
			if len(got) != 1 || rowWords(got[0].After) != "v=after" || got[0].Position.Epoch != 2 {
				t.Errorf("node %d goes on with %v", id, eventLines(got))
			}
		}
	})
}

// TestFeedGoesOnThroughFailovers reads at a follower while leaders die.
func TestFeedGoesOnThroughFailovers(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("create table t(v)")
		c.level()
		s := &sink{}
		ctx, cancel := context.WithCancel(context.Background())
		var reading sync.WaitGroup
		reading.Go(func() {
			if err := c.replica(3).Feed(ctx, changefeed.Request{From: c.startOffset()}, time.Second, s); !errors.Is(err, context.Canceled) {
				t.Errorf("stream: %v", err)
			}
		})
		n := 0
		for _, next := range []base.NodeID{2, 1} {
			for range 5 {
				n++
				c.write("insert into t values (?1)", n)
			}
			c.level() // So that the one that is named is elected, and not the one that reads.
			old := c.record().Leader
			c.kill(old)
			c.elect(next, 3)
			n++
			c.write("insert into t values (?1)", n)
			c.open(old)
			c.level()
		}
		c.eventually("all events", func() bool { return s.len() > n })
		cancel()
		reading.Wait()
		for i, e := range s.events[1:] {
			if rowWords(e.After) != fmt.Sprintf("v=%d", i+1) {
				t.Fatalf("event %d: %s", i+1, eventLine(e))
			}
		}
	})
}

// TestFeedOfLostHistoryIsRefused elects a replica that lacks what was sent.
func TestFeedOfLostHistoryIsRefused(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("create table t(v)")
		c.write("insert into t values ('here')")
		c.level()
		at := c.events(1, changefeed.Request{From: c.startOffset()}, 2)
		ahead := at[1].Offset
		ahead.Position.Seq += 5 // What another history had.
		ahead.Entry = ahead.Position.Seq + 1
		c.kill(1)
		c.elect(2, 3)
		for range 10 {
			c.write("insert into t values ('other')")
		}
		err := c.replica(2).Feed(context.Background(), changefeed.Request{From: ahead}, time.Second, &sink{})
		wantKind(t, err, base.KindHistoryLost, base.NotDone)
		ahead.Database++
		err = c.replica(2).Feed(context.Background(), changefeed.Request{From: ahead}, time.Second, &sink{})
		wantKind(t, err, base.KindHistoryLost, base.NotDone)
		if list := c.replica(2).Status().Consumers; len(list) != 0 {
			t.Errorf("streams that were refused still count: %+v", list)
		}
		torn := at[1].Offset
		torn.Position.Seq, torn.Position.Epoch = 2, 1
		torn.Entry = 1
		if got := c.events(3, changefeed.Request{From: torn}, 1); len(got) != 1 {
			t.Errorf("%v", eventLines(got))
		}
	})
}

// TestFeedIsToldWhatWasTrimmed holds a stream back while its log is dropped.
func TestFeedIsToldWhatWasTrimmed(t *testing.T) {
	few := func(p *base.Policy) { p.RetentionBytes = 1 << 20 }
	run(t, 1, few, func(t *testing.T, c *cluster) {
		c.write("create table t(v)")
		s := &sink{}
		held := make(chan struct{})
		s.enough = func(*sink) bool { <-held; return false }
		failed := make(chan error, 1)
		go func() {
			failed <- c.replica(1).Feed(context.Background(), changefeed.Request{From: c.startOffset(), Name: "slow"}, time.Second, s)
		}()
		blob := strings.Repeat("x", 1<<20)
		forecast := false
		for range 80 {
			c.write("insert into t values (?1)", blob)
			time.Sleep(300 * time.Millisecond)
			if list := c.replica(1).Status().Consumers; len(list) == 1 && list[0].Name == "slow" && list[0].Forecast.CutOffIn > 0 {
				forecast = true
			}
		}
		list := c.replica(1).Status().Consumers
		if !forecast || len(list) != 1 || !list[0].Forecast.CutOff {
			t.Errorf("foreseen: %v, %+v", forecast, list)
		}
		if n := c.replica(1).Status().LogBytes; n > 80<<20 {
			t.Errorf("a slow consumer keeps %d bytes of log", n)
		}
		close(held)
		wantKind(t, <-failed, base.KindTrimmed, base.NotDone)
	})
}
