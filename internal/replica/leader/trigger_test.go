package leader_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/choice"
	"github.com/skeindb/skein/internal/partial"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/replica/leader"
	"github.com/skeindb/skein/internal/sqlite"
	"github.com/skeindb/skein/internal/sqltext"
)

func inTriggerFormat(p *base.Policy) { p.LogFormat = base.FormatTrigger }

// choose replaces the triggers of a table in one transaction.
func (c *cluster) choose(wanted choice.Choice) {
	c.t.Helper()
	q := request("SELECT 1")
	for _, event := range choice.Events {
		q.Statements = append(q.Statements, statement("DROP TRIGGER IF EXISTS "+sqltext.QuoteName(choice.TriggerName(wanted.Table, event))))
	}
	for _, t := range wanted.Triggers() {
		q.Statements = append(q.Statements, statement(t.SQL))
	}
	if _, err := c.try(c.record().Leader, q); err != nil {
		c.t.Fatalf("choose %+v: %v", wanted, err)
	}
}

// partialReplica is a file that follows the cluster, from node to node.
type partialReplica struct {
	c      *cluster
	file   *partial.File
	path   string
	copies int
}

func (c *cluster) partialReplica() *partialReplica {
	p := &partialReplica{c: c, path: filepath.Join(c.t.TempDir(), "partial.db")}
	p.open()
	return p
}

func (p *partialReplica) open() {
	var err error
	if p.file, err = partial.Open(context.Background(), p.path, "shop"); err != nil {
		p.c.t.Fatal(err)
	}
}

// partialSink gives events to the file until it has caught up, or breaks off.
type partialSink struct {
	file   *partial.File
	left   int // events until it breaks off; 0: never
	caught bool
}

var errBroken = errors.New("the connection broke")

func (s *partialSink) Send(e *changefeed.Event) error {
	if err := s.file.Apply(e); err != nil {
		return err
	}
	if e.Op == changefeed.Heartbeat && s.file.Offset() != "" {
		s.caught = true
		return errEnough
	}
	if s.left--; s.left == 0 {
		return errBroken
	}
	return nil
}

func (s *partialSink) Flush() error { return nil }

// follow reads from a node until the file has all that the node has. Break says
// after how many events the connection breaks, once; the file is opened anew
// then.
func (p *partialReplica) follow(id base.NodeID, breakAfter int) error {
	p.c.t.Helper()
	for range 20 {
		var from changefeed.Offset
		var err error
		if p.file.Offset() != "" {
			if from, err = changefeed.ParseOffset(p.file.Offset()); err != nil {
				p.c.t.Fatal(err)
			}
		}
		anew := p.file.Offset() == ""
		if err := p.file.Begin(nil); err != nil {
			p.c.t.Fatal(err)
		}
		s := &partialSink{file: p.file, left: breakAfter}
		breakAfter = 0
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err = p.c.replica(id).Feed(ctx, changefeed.Request{From: from, Chosen: true}, time.Second, s)
		cancel()
		if anew && p.file.Offset() != "" {
			p.copies++
		}
		switch {
		case s.caught:
			return nil
		case errors.Is(err, errBroken):
			if err := p.file.Close(); err != nil {
				p.c.t.Fatal(err)
			}
			p.open()
		case errors.Is(err, partial.ErrNewCopy):
		case base.KindOf(err) == base.KindHistoryLost:
			if err := p.file.Forget(); err != nil {
				p.c.t.Fatal(err)
			}
		default:
			return err
		}
	}
	p.c.t.Fatal("the partial replica never catches up")
	return nil
}

// check compares it with what is chosen on the leader.
func (p *partialReplica) check(choices ...choice.Choice) {
	p.c.t.Helper()
	conn, err := sqlite.OpenConn(context.Background(), p.path, sqlite.ConnOptions{Role: sqlite.RoleTool})
	if err != nil {
		p.c.t.Fatal(err)
	}
	defer conn.Close()
	tables := readAll(p.c.t, conn, "SELECT name FROM sqlite_schema WHERE type = 'table'")
	for _, c := range choices {
		var names []string
		for _, n := range append(append([]string(nil), c.Key...), c.Columns...) {
			names = append(names, "quote("+sqltext.QuoteName(n)+")")
		}
		query := "SELECT " + strings.Join(names, " || ', ' || ") + " FROM " + sqltext.QuoteName(c.Table) + " AS NEW"
		want := p.c.read(p.c.record().Leader, query+where(c)+" ORDER BY 1")
		got := ""
		if strings.Contains(tables, c.Table) {
			got = readAll(p.c.t, conn, query+" ORDER BY 1")
		}
		if want != got {
			p.c.t.Errorf("table %s of the partial replica holds\n%s\nwant\n%s", c.Table, got, want)
		}
	}
}

func where(c choice.Choice) string {
	if c.Where == "" {
		return ""
	}
	return " WHERE " + c.Where
}

func readAll(t *testing.T, conn *sqlite.Conn, sql string) string {
	t.Helper()
	st, err := conn.PrepareOwn(sql)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	var lines []string
	for {
		more, err := st.Step()
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return strings.Join(lines, ";")
		}
		lines = append(lines, string(st.Column(0).Bytes))
	}
}

var chosenOfWorkload = []choice.Choice{
	{Table: "parent", Key: []string{"id"}, Columns: []string{"name", "dice"}, Where: "NEW.dice % 3 <> 0"},
	{Table: "child", Key: []string{"id"}, Columns: []string{"note", "data"}, Where: "NEW.note LIKE 'n%'"},
	{Table: "pair", Key: []string{"b", "a"}, Columns: []string{"v"}},
	{Table: "audit", Key: []string{"rowid"}, Columns: []string{"what", "n", "at"}},
}

// TestPartialReplica follows a database with random writes: whole at first, then
// what is chosen, over broken connections, at all nodes, through a failover and
// through other log formats.
func TestPartialReplica(t *testing.T) {
	run(t, 3, inTriggerFormat, func(t *testing.T, c *cluster) {
		c.makeTables()
		w := workload{rand.New(rand.NewPCG(11, 1))}
		p := c.partialReplica()
		whole := append([]choice.Choice(nil), chosenOfWorkload...)
		for i := range whole {
			whole[i].Where = ""
		}
		step := func(id base.NodeID, choices []choice.Choice) {
			c.work(w, 40)
			c.level()
			if err := p.follow(id, 5+w.IntN(40)); err != nil {
				t.Fatal(err)
			}
			p.check(choices...)
		}
		for id := range base.NodeID(3) {
			step(id+1, whole)
		}
		if p.copies != 1 {
			t.Errorf("%d copies were taken before anything changed, want 1", p.copies)
		}
		for _, wanted := range chosenOfWorkload {
			c.choose(wanted)
		}
		for id := range base.NodeID(3) {
			step(id+1, chosenOfWorkload)
		}
		old := c.record().Leader
		c.isolate(old)
		var others []base.NodeID
		for _, id := range c.ids() {
			if id != old {
				others = append(others, id)
			}
		}
		c.elect(others...)
		c.eventually("another serves", func() bool { _, ok := c.replica(c.record().Leader).Leading(); return ok })
		c.rejoin(old)
		step(old, chosenOfWorkload)
		if p.copies > 4 {
			t.Errorf("%d copies were taken, though what is chosen has changed once", p.copies)
		}
		c.alterFormat(base.FormatRow)
		c.work(w, 20)
		if err := p.follow(1, 0); base.KindOf(err) != base.KindInvalid {
			t.Errorf("in format row the stream says %v", err)
		}
		c.alterFormat(base.FormatTrigger)
		step(2, chosenOfWorkload)
		c.same()
	})
}

// TestTriggersAreThere: they are made when the format is chosen, without any
// write, for tables that are there and for those that come, and follow a table
// to another name.
func TestTriggersAreThere(t *testing.T) {
	const list = `SELECT group_concat("table" || '/' || "trigger", ' ') FROM (SELECT * FROM skein_log ORDER BY "trigger")`
	run(t, 3, nil, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE a(id INTEGER PRIMARY KEY, x)")
		c.write("CREATE VIRTUAL TABLE f USING fts5(x)")
		c.alterFormat(base.FormatTrigger)
		c.eventually("the triggers are made", func() bool {
			got, err := c.query(c.record().Leader, replica.ReadRequest{}, list)
			return err == nil && strings.Contains(got, "a/skein_log_a_delete a/skein_log_a_insert a/skein_log_a_update")
		})
		c.write("CREATE TABLE b AS SELECT 1 AS n")
		c.write("CREATE VIRTUAL TABLE g USING fts5(x)")
		c.write("ALTER TABLE b RENAME TO \"c 'd\"")
		c.write("DROP TABLE a")
		c.level()
		for _, id := range c.ids() {
			c.expect(id, list, "c 'd/skein_log_c 'd_delete c 'd/skein_log_c 'd_insert c 'd/skein_log_c 'd_update")
		}
		p := c.partialReplica()
		if err := p.follow(2, 0); err != nil {
			t.Fatal(err)
		}
		c.write("INSERT INTO \"c 'd\" VALUES (2)")
		c.write("CREATE TABLE e AS SELECT n + 5 AS m FROM \"c 'd\"")
		c.write("UPDATE \"c 'd\" SET n = 9 WHERE n = 1")
		c.level()
		if err := p.follow(3, 0); err != nil {
			t.Fatal(err)
		}
		p.check(choice.Choice{Table: "c 'd", Key: []string{"rowid"}, Columns: []string{"n"}}, choice.Choice{Table: "e", Key: []string{"rowid"}, Columns: []string{"m"}})
		if p.copies != 1 {
			t.Errorf("%d copies were taken, want 1: a new table needs none", p.copies)
		}
	})
}

// TestMessages: what a trigger of the user's sends that is no row is in the
// stream of changes and in the log, and is applied nowhere; what it sends as a
// row of another table is that row.
func TestMessages(t *testing.T) {
	run(t, 3, inTriggerFormat, func(t *testing.T, c *cluster) {
		c.write("CREATE TABLE orders(id INTEGER PRIMARY KEY, total, paid)")
		c.write("CREATE TRIGGER tell AFTER UPDATE OF paid ON orders WHEN NEW.paid BEGIN SELECT skein_emit('paid', 'orders', 'id', NEW.id, 'cents', x'00ff'); END")
		c.level()
		from := c.startOffset()
		c.write("INSERT INTO orders VALUES (1, 5.5, 0)")
		c.write("UPDATE orders SET paid = 1")
		c.level()
		for _, chosen := range []bool{false, true} {
			var lines []string
			for _, e := range c.events(2, changefeed.Request{From: from, Chosen: chosen}, 100) {
				if e.Op != changefeed.Schema {
					lines = append(lines, fmt.Sprintf("%s %s%s %s > %s", e.Op, e.Message, e.Table, rowWords(e.Before), rowWords(e.After)))
				}
			}
			want := "c orders - > id=1,total=5.5,paid=0; u orders id=1,total=5.5,paid=0 > id=1,total=5.5,paid=1; m paidorders - > id=1,cents=\x00\xff"
			if chosen {
				want = strings.Replace(want, "u orders id=1,total=5.5,paid=0 >", "u orders - >", 1)
			}
			got := strings.Join(lines, "; ")
			if chosen {
				got = sortedLines(lines)
				want = sortedLines(strings.Split(want, "; "))
			}
			if got != want {
				t.Errorf("chosen %v: %s\nwant %s", chosen, got, want)
			}
		}
		var shown []string
		x, err := c.replica(3).ShowLog(context.Background(), leader.LogQuery{}, func(e leader.LogEntry) error {
			for _, change := range e.Changes {
				shown = append(shown, e.Kind+" "+change.Op+" "+change.Table+" "+rowWords(change.After))
			}
			return nil
		})
		if err != nil || x == nil {
			t.Fatal(err)
		}
		for _, want := range []string{"trigger insert orders id=1,total=5.5,paid=0", "trigger sent insert orders id=1,total=5.5,paid=0", "trigger message paid orders id=1,cents=\x00\xff"} {
			if !strings.Contains(strings.Join(shown, "\n"), want) {
				t.Errorf("the log does not show %q:\n%s", want, strings.Join(shown, "\n"))
			}
		}
		for sql, part := range map[string]string{
			"SELECT skein_emit('insert', 'nothing', 1)":                          "no table",
			"SELECT skein_emit('insert', 'orders')":                              "named by 1 values",
			"SELECT skein_emit('insert', 'orders', 'x')":                         "an integer",
			"SELECT skein_emit('insert', 'orders', 1, 'total')":                  "one is left over",
			"SELECT skein_emit('insert', 'orders', 1, 2, 3)":                     "name is text",
			"SELECT skein_emit('delete', 'orders', 1, 'total', 3)":               "by its key alone",
			"SELECT skein_emit('x')":                                             "first arguments",
			"INSERT INTO _skein_changes(op) VALUES ('insert')":                   "reserved",
			"CREATE TRIGGER _skein_x AFTER DELETE ON orders BEGIN SELECT 1; END": "reserved",
		} {
			if _, err := c.try(c.record().Leader, request(sql)); err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want %q", sql, err, part)
			}
		}
		if _, err := c.query(2, replica.ReadRequest{}, "SELECT skein_emit('x', 'y')"); err == nil || !strings.Contains(err.Error(), "write transactions only") {
			t.Errorf("in a query: %v", err)
		}
		c.expect(1, "SELECT count(*) FROM _skein_changes", "0")
		c.same()
	})
}

func sortedLines(lines []string) string {
	lines = append([]string(nil), lines...)
	for i := range lines {
		for j := i + 1; j < len(lines); j++ {
			if lines[j] < lines[i] {
				lines[i], lines[j] = lines[j], lines[i]
			}
		}
	}
	return strings.Join(lines, "; ")
}
