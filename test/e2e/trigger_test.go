package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Triggers choose what is sent, and are the user's: they are listed, changed and
// added to with SQL. A stream of what is chosen has that and nothing else, from
// every node; one of all changes has everything.
func TestTriggersChooseWhatIsSent(t *testing.T) {
	full(t)
	tool(t, "psql")
	c := startCluster(t, 3)
	n := c.nodes[0]
	n.mustPsql("main", "create table orders(id integer primary key, region text, total, card); create table secret(v); create table plain(v); insert into orders values (1, 'eu', 10, 'visa'), (2, 'us', 20, 'amex');")
	if _, errs, err := run("", n.url(), "cdc", "tail", "main", "--chosen"); err == nil || !strings.Contains(errs, "--log-format trigger") {
		t.Errorf("what is chosen, in format row: %v %s", err, errs)
	}
	c.format("main", "trigger")
	follower := c.others(c.leader("main"))[0]
	if got := follower.mustPsql("main", `select count(*) from skein_log; select "trigger" from skein_log where "table" = 'orders' order by 1`); got != "9\nskein_log_orders_delete\nskein_log_orders_insert\nskein_log_orders_update" {
		t.Errorf("skein_log has %s", got)
	}
	mustRun(t, n.url(), "db", "replicate", "main", "--table", "orders", "--columns", "region,total", "--where", "NEW.region = 'eu'")
	mustRun(t, n.url(), "db", "replicate", "main", "--table", "secret", "--none")
	// A trigger is changed by hand, and one is added that sends a message.
	sql := follower.mustPsql("main", "select sql from sqlite_schema where name = 'skein_log_plain_insert'")
	if !strings.Contains(sql, "skein_emit('insert', 'plain', NEW.") {
		t.Fatalf("the trigger of plain is %s", sql)
	}
	follower.mustPsql("main", `drop trigger skein_log_plain_insert;
		create trigger skein_log_plain_insert after insert on plain when new.v > 10 begin select skein_emit('insert', 'plain', new.rowid)\; end;
		create trigger paid after update of total on orders when new.total = 0 begin select skein_emit('paid', 'orders', 'id', new.id, 'was', old.total)\; end;`)
	c.equal("main", 3)
	if out := mustRun(t, follower.url(), "db", "replicate", "main"); !strings.Contains(out, "when new.v > 10") || strings.Contains(out, "secret") {
		t.Errorf("replicate lists %s", out)
	}
	tails := map[string]*child{}
	for _, n := range c.nodes {
		tails[n.name] = start(t, "chosen", n.url(), "cdc", "tail", "main", "--chosen", "--json", "--heartbeat", "100ms")
		tails[n.name].says(t, `"snapshot":"last"`)
	}
	whole := start(t, "whole", follower.url(), "cdc", "tail", "main", "--now", "--json", "--heartbeat", "100ms")
	eventually(t, patience, "two streams", func() error {
		d, err := follower.database("main")
		if err != nil {
			return err
		}
		for _, r := range d.Replicas {
			if r.NodeName == follower.name && len(r.Consumers) < 2 {
				return fmt.Errorf("%d streams", len(r.Consumers))
			}
		}
		return nil
	})
	follower.mustPsql("main", `insert into secret values ('hidden'); insert into plain values (5), (50);
		update orders set total = 11, card = 'other' where id = 1; update orders set region = 'eu' where id = 2; update orders set region = 'us' where id = 1;
		begin; update orders set total = 0 where id = 2; select skein_emit('note', 'anything', 'text', 'by hand'); commit;
		delete from orders;`)
	want := []string{ // Of one row the trigger that was made last fires first.
		"r orders id=1,region=eu,total=10",
		"c plain v=50", "u orders id=1,region=eu,total=11", "u orders id=2,region=eu,total=20", "d orders ",
		"mpaid orders id=2,was=20", "u orders id=2,region=eu,total=", "mnote anything text=by hand", "d orders ",
	}
	for _, n := range c.nodes {
		tails[n.name].says(t, `"message":"note"`)
		var got []string
		eventually(t, patience, "the stream of what is chosen at "+n.name, func() error {
			got = stories(t, tails[n.name])
			if len(got) < len(want) {
				return fmt.Errorf("it tells\n%s", strings.Join(got, "\n"))
			}
			return nil
		})
		if !slices.Equal(got, want) {
			t.Errorf("%s tells of what is chosen\n%s\nwant\n%s", n.name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if out := tails[n.name].output.String(); strings.Contains(out, "visa") || strings.Contains(out, "hidden") || strings.Contains(out, "amex") {
			t.Errorf("%s sends what is not chosen:\n%s", n.name, out)
		}
	}
	whole.says(t, `"op":"d","key":{"id":2}`)
	if all := strings.Join(stories(t, whole), "\n"); !strings.Contains(all, "c secret v=hidden") || !strings.Contains(all, "c plain v=5\n") ||
		!strings.Contains(all, "u orders id=1,region=eu,total=10,card=visa > id=1,region=eu,total=11,card=other") || !strings.Contains(all, "mpaid orders id=2,was=20") {
		t.Errorf("a stream of everything tells\n%s", all)
	}
	log := mustRun(t, follower.url(), "log", "show", "main")
	for _, part := range []string{"sent insert plain", "message paid orders", `message note anything`, `update orders  {"id":1}  old {"id":1,"region":"eu","total":10,"card":"visa"}`} {
		if !strings.Contains(log, part) {
			t.Errorf("log show lacks %q:\n%s", part, log)
		}
	}
	c.equal("main", 3)
}

// stories are the events that a tail has printed, for people.
func stories(t *testing.T, p *child) (list []string) {
	t.Helper()
	out := p.output.String()
	for line := range strings.Lines(out[:strings.LastIndex(out, "\n")+1]) {
		if strings.HasPrefix(line, "{") {
			list = append(list, plain(changeOf(t, line)))
		}
	}
	return list
}
