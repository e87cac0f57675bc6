package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/httpapi"
)

// shopSQL makes a file with what SQLite's users use.
const shopSQL = `
create table product(id integer primary key autoincrement, name text not null collate nocase, price_cents integer not null check(price_cents >= 0),
  vat integer generated always as (price_cents * 19 / 100) virtual, gross integer generated always as (price_cents * 119 / 100) stored);
create unique index product_name on product(name);
create table customer(mail text primary key, name text, birth date, picture blob) without rowid;
create table bought(product integer not null references product(id), customer text not null references customer(mail), at datetime not null default '2024-01-01', amount real, primary key(product, customer, at));
create table audit(id integer primary key, what text, old text, new text);
create trigger product_price after update of price_cents on product when old.price_cents <> new.price_cents begin
  insert into audit(what, old, new) values('price of ' || new.name, old.price_cents, new.price_cents); end;
create view revenue as select p.name, sum(b.amount * p.price_cents) as cents from bought b join product p on p.id = b.product group by p.name;
create trigger revenue_insert instead of insert on revenue begin insert into audit(what, new) values('view ' || new.name, new.cents); end;
create virtual table search using fts5(name, body, tokenize='porter');
create table strict_one(a integer, b text, c any) strict;
create table odd("a b" text, "select" int, "Ünïcode" text);
create index odd_expression on odd(lower("a b")) where "select" > 3;
with recursive n(i) as (select 1 union all select i+1 from n where i < 5000)
  insert into product(name, price_cents) select 'product ' || i, i * 7 % 10000 from n;
delete from product where id % 10 = 0;
with recursive n(i) as (select 1 union all select i+1 from n where i < 2000)
  insert into customer select 'c' || i || '@example.org', 'Kund ' || char(228, 128512) || i, date('1970-01-01', i || ' days'), zeroblob(i % 900) from n;
with recursive n(i) as (select 1 union all select i+1 from n where i < 8000)
  insert or ignore into bought select i % 4999 / 10 * 10 + 1, 'c' || (i % 2000 + 1) || '@example.org', datetime('2024-01-01', i || ' minutes'), i / 3.0 from n;
insert into search(name, body) select name, 'the quick brown fox number ' || id from product where id < 800;
insert into strict_one values(1, 'x', 1.5), (9223372036854775807, char(0x1F40C), x'00ff00');
insert into odd values('A', 5, 'ß'), (null, null, null), ('', 0, '');
pragma user_version = 77;
`

// A file of the plain shell with many features comes in whole, is changed
// through every node, stays equal, and opens in the plain shell everywhere.
func TestFileComesInAndOpensEverywhere(t *testing.T) {
	full(t)
	shell, _ := tool(t, "sqlite3"), tool(t, "psql")
	c := startCluster(t, 3)
	file := filepath.Join(tempDir(t), "shop.sqlite")
	if _, errs, err := runProgram(shell, shopSQL, nil, "-bail", file); err != nil {
		t.Fatalf("sqlite3: %v %s", err, errs)
	}
	told := mustRun(t, c.nodes[1].url(), "db", "create", "shop", "--from", file)
	t.Logf("%s", strings.TrimSpace(told))
	c.whole("shop")
	c.equal("shop", 3)
	changeShop(t, c)
	c.equal("shop", 3)
	for _, n := range c.nodes {
		asked := n.mustPsql("shop", "set skein.read = 'leader'; "+shopQuestions)
		path := fmt.Sprintf("%s/shop.sqlite", shopFolder(t, n))
		for _, mode := range []string{"-readonly", "-safe"} {
			plain, errs, err := runProgram(shell, ".bail on\npragma integrity_check;\npragma foreign_key_check;\n"+shopQuestions, nil, mode, path)
			if err != nil {
				t.Fatalf("sqlite3 %s %s: %v %s", mode, path, err, errs)
			}
			if want := "ok\n" + asked + "\n"; plain != want {
				t.Errorf("sqlite3 %s at %s says\n%s\npsql\n%s", mode, n.name, plain, want)
			}
		}
	}
	if got := c.nodes[2].mustPsql("shop", "select count(*) from audit"); got != "5" {
		t.Errorf("triggers have written %s lines, want 5: each fires once, not on every replica", got)
	}
}

const shopQuestions = `select count(*), sum(id), sum(price_cents), sum(vat), sum(gross) from product;
select count(*), sum(length(picture)) from customer;
select count(*) from bought;
select what, coalesce(old, '-'), new from audit order by id;
select count(*) from search where search match 'foxes';
select name, cast(cents as integer) from revenue order by name limit 3;
select a, b, typeof(c), quote(c) from strict_one order by a;
select quote("a b"), quote("select"), quote("Ünïcode") from odd order by rowid;
select seq from sqlite_sequence where name = 'product';
`

// changeShop changes every kind of table, each time through another node.
func changeShop(t *testing.T, c *cluster) {
	t.Helper()
	for i, sql := range []string{
		"update product set price_cents = price_cents + 1 where id in (1, 2, 3); insert into product(name, price_cents) values('new', 5);",
		"insert into revenue(name, cents) values('by view', 1); delete from customer where mail = 'c7@example.org' and mail not in (select customer from bought);",
		"insert into search(name, body) values('late', 'a fox that came late'); delete from search where rowid = 5;",
		"update customer set picture = x'0102' where mail like 'c1%'; insert into customer(mail, name) values('new@example.org', 'New');",
		"begin; update odd set \"Ünïcode\" = 'ÿ' where \"select\" = 5; insert into strict_one values(-1, '', null); commit;",
		"alter table audit add column note text default 'none'; update audit set note = 'seen';",
		"insert into bought values(1, 'new@example.org', '2025-01-01', 0.1), (1, 'new@example.org', '2025-01-02', 1e10);",
		"insert into product(name, price_cents) values('NEW', 5) on conflict(name) do update set price_cents = 6;",
		"update product set id = 100000 where name = 'product 12';",
		"create table later as select id, name from product where id < 50; create index later_name on later(name);",
	} {
		n := c.nodes[i%3]
		if out, err := n.psql("shop", sql); err != nil {
			t.Errorf("%s at %s: %v %s", sql, n.name, err, out)
		}
	}
}

// shopFolder is where a node keeps database shop.
func shopFolder(t *testing.T, n *node) string {
	t.Helper()
	found, err := filepath.Glob(n.dir + "/db/shop.*")
	if err != nil || len(found) != 1 {
		entries, _ := os.ReadDir(n.dir + "/db")
		t.Fatalf("folders of shop at %s: %v of %v, %v", n.name, found, entries, err)
	}
	return found[0]
}

// A copy that another program has written to lacks checksums: it is refused, and
// the error says how to bring it in all the same. What is in a -wal is not left
// out silently, and the way that is named works.
func TestCopyThatWasEditedIsBroughtIn(t *testing.T) {
	full(t)
	tool(t, "psql")
	shell := tool(t, "sqlite3")
	c := startCluster(t, 3)
	n := c.nodes[0]
	n.mustPsql("main", "create table t(id integer primary key, v); insert into t values (1, 'kept');")
	dir := tempDir(t)
	edited, plain := filepath.Join(dir, "edited.db"), filepath.Join(dir, "plain.db")
	mustRun(t, n.url(), "snapshot", "main", edited)
	in := func(path, input string) string {
		t.Helper()
		out, errs, err := runProgram(shell, input, nil, path)
		if err != nil {
			t.Fatal(out, errs, err)
		}
		return out
	}
	in(edited, "INSERT INTO t VALUES (2, 'by another program');")
	if _, errs, err := run("", n.url(), "db", "create", "second", "--from", edited); err == nil || !strings.Contains(errs, ".dump | sqlite3 NEW") {
		t.Fatalf("an edited copy: %v %s", err, errs)
	}
	in(plain, in(edited, ".dump"))
	mustRun(t, n.url(), "db", "create", "second", "--from", plain)
	if got := n.mustPsql("second", "select group_concat(v) from t"); got != "kept,by another program" {
		t.Errorf("brought in: %s", got)
	}

	last := c.nodes[2]
	last.mustPsql("main", "set skein.durability = 'all applied'; insert into t values (3, 'in the -wal');")
	last.mustPsql("main", "set skein.read = 'any'; select count(*) from t") // It is in the file then, and not only in the log.
	for _, n := range c.nodes {
		n.kill()
	}
	if _, errs, err := run("", n.url(), "db", "create", "third", "--from", last.databaseFile("main")); err == nil || !strings.Contains(errs, "start the node") {
		t.Fatalf("a file with a -wal: %v %s", err, errs)
	}
	last.start() // Alone: there is no majority any more.
	eventually(t, patience, "its replica is open", func() error {
		var local httpapi.LocalStatus
		if err := last.get("/v1/status/local", &local); err != nil {
			return err
		}
		for _, r := range local.Replicas {
			if r.Database == "main" && r.AppliedSeq > 0 {
				return nil
			}
		}
		return fmt.Errorf("replicas: %+v", local.Replicas)
	})
	last.stop(t)
	other := startCluster(t, 1)
	mustRun(t, other.nodes[0].url(), "db", "create", "third", "--from", last.databaseFile("main"))
	if got := other.nodes[0].mustPsql("third", "select group_concat(v) from t"); got != "kept,in the -wal" {
		t.Errorf("in the new cluster: %s", got)
	}
}
