package leader_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/replica/leader"
)

// rowWords writes a row for a comparison.
func rowWords(r changefeed.Row) string {
	if r == nil {
		return "-"
	}
	var words []string
	for _, f := range r {
		words = append(words, f.Name+"="+word(f.Value))
	}
	return strings.Join(words, ",")
}

// logLines is what a log shows, without times and places.
func logLines(entries []leader.LogEntry) (lines []string) {
	for _, e := range entries {
		for _, c := range e.Changes {
			if c.SQL != "" {
				lines = append(lines, c.SQL)
				continue
			}
			lines = append(lines, fmt.Sprintf("%s %s %s: %s > %s", c.Op, c.Table, rowWords(c.Key), rowWords(c.Before), rowWords(c.After)))
		}
	}
	return lines
}

// TestLogIsShownByTheNamesOfItsTime changes the schema between rows, and within
// a transaction, and reads the log of the leader, of a follower, of a stopped
// node, and of one whose files were copied.
func TestLogIsShownByTheNamesOfItsTime(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		story := []string{
			"create table t(a, id integer primary key, b as (a || '!'), c)",
			"create table w(x, k text primary key) without rowid",
			"insert into t(a, id, c) values ('one', 7, 1.5)",
			"insert into w values (x'00ff', 'key')",
			"alter table t rename column a to z",
			"update t set z = 'two', id = 8",
			"alter table t add column d default 'new'",
			"update t set d = NULL",
			"create index i on t(z)",
			"alter table w rename to v",
			"delete from v",
			"drop table t",
			"create table t(other)",
			"insert into t values (1)",
		}
		for _, sql := range story {
			c.write(sql)
		}
		c.level()
		want := []string{
			story[0], story[1],
			"insert t id=7: - > a=one,id=7,c=1.5",
			"insert w k=key: - > x=\x00\xff,k=key",
			story[4],
			"move t id=7: z=one,id=7,c=1.5 > z=two,id=8,c=1.5",
			story[6],
			"update t id=8: z=two,id=8,c=1.5,d=new > z=two,id=8,c=1.5,d=NULL",
			story[8], story[9],
			"delete v k=key: x=\x00\xff,k=key > -",
			"drop table t", story[12],
			"insert t rowid=1: - > other=1",
		}
		check := func(what string, got []leader.LogEntry, err error) {
			t.Helper()
			lines := logLines(got)
			rest := lines
			for _, w := range want {
				found := false
				for i, l := range rest {
					if strings.EqualFold(l, w) {
						rest, found = rest[i+1:], true
						break
					}
				}
				if !found {
					t.Errorf("%s: lacks %q, in this order, in\n%s", what, w, strings.Join(lines, "\n"))
					return
				}
			}
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		for _, id := range c.ids() {
			var got []leader.LogEntry
			_, err := c.replica(id).ShowLog(context.Background(), leader.LogQuery{}, func(e leader.LogEntry) error { got = append(got, e); return nil })
			check(fmt.Sprintf("node %d", id), got, err)
			for _, e := range got {
				if e.Error != "" {
					t.Errorf("node %d: %v: %s", id, e.Position, e.Error)
				}
			}
		}
		c.stop(3)
		var got []leader.LogEntry
		x, err := leader.ShowLogFolder(context.Background(), env.Real(quiet()), c.dir(3), "shop", leader.LogQuery{}, func(e leader.LogEntry) error { got = append(got, e); return nil })
		check("stopped", got, err)
		if x.Found != 0 {
			t.Errorf("stopped: %+v", x)
		}
		var some []leader.LogEntry
		_, err = c.replica(1).ShowLog(context.Background(), leader.LogQuery{From: got[3].First, To: got[6].Position.Seq, Tables: []string{"T"}, Limit: 2}, func(e leader.LogEntry) error { some = append(some, e); return nil })
		if lines := logLines(some); err != nil || len(some) != 2 || lines[0] != want[2] {
			t.Errorf("a part: %v, %v", lines, err)
		}
	})
}

// TestLogIsVerified spoils a byte of the body of an entry of a stopped node.
func TestLogIsVerified(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("create table t(a)")
		for i := range 20 {
			c.write("insert into t values (?1)", i)
		}
		c.level()
		if x, err := c.replica(2).VerifyLog(context.Background()); err != nil || x.Found != 0 || x.Entries < 21 {
			t.Errorf("a sound log: %+v, %v", x, err)
		}
		c.stop(3)
		var at leader.LogEntry
		show := func(each func(leader.LogEntry) error) string {
			x, err := leader.ShowLogFolder(context.Background(), env.Real(quiet()), c.dir(3), "shop", leader.LogQuery{}, each)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := json.Marshal(x.Faults)
			return string(b)
		}
		if faults := show(func(e leader.LogEntry) error {
			if len(e.Changes) == 1 && rowWords(e.Changes[0].After) == "a=11" {
				at = e
			}
			return nil
		}); faults != "null" {
			t.Errorf("a sound log: %s", faults)
		}
		segments, _ := filepath.Glob(c.dir(3) + "/log/segment-*")
		flip(t, segments[at.Place.Segment-1], int(at.Place.Offset)+at.Place.Bytes-1)
		if faults := show(nil); strings.Count(faults, "Offset") != 1 || !strings.Contains(faults, fmt.Sprintf(`"Offset":%d,`, at.Place.Offset)) {
			t.Errorf("entry %v at %+v: %s", at.Position, at.Place, faults)
		}
	})
}
