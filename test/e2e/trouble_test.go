package e2e

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Bytes that make no sense, on all three ports, hurt nobody else.
func TestGarbageOnEveryPort(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	exec1(t, c.nodes[0].mustConnect("main"), ledgerTable)
	w := startWriters(t, "main", c.nodes...)
	w.progress(5)
	random := rand.New(rand.NewPCG(1, 2))
	n := c.leader("main")
	before := n.residentBytes(t)
	for _, address := range []string{n.pg, n.http, n.peer} {
		for i := range 40 {
			garbage(t, address, hostile(random, i), i%4 == 3)
		}
	}
	w.progress(20)
	for _, n := range c.nodes {
		if !n.running() {
			t.Fatalf("%s has ended: %v", n.name, n.Err())
		}
		if strings.Contains(n.output.String(), "panic") {
			t.Errorf("%s has panicked", n.name)
		}
	}
	t.Logf("memory went from %d to %d MiB", before>>20, n.residentBytes(t)>>20)
	w.verify("main", c.nodes...)
}

// hostile makes bytes that look ever more like something.
func hostile(r *rand.Rand, i int) []byte {
	noise := make([]byte, r.IntN(4000)+1)
	for j := range noise {
		noise[j] = byte(r.Uint32())
	}
	heads := [][]byte{
		nil,
		{0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0}, // a start-up packet of 2 GiB
		{0, 0, 0, 8, 4, 210, 22, 47},         // TLS, then no TLS
		{0, 0, 0, 4, 0, 3, 0, 0},             // too short
		append([]byte{0, 0, 0, 32, 0, 3, 0, 0}, "user\x00x\x00database\x00main\x00"...), // a log-in
		[]byte("GET /v1/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"),
		[]byte("POST /v1/databases/main/query HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"),
		[]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
		{0x16, 3, 1, 0xff, 0xff},
	}
	return append(append([]byte{}, heads[i%len(heads)]...), noise...)
}

// garbage sends bytes, within TLS if asked, and does not care for the answer.
func garbage(t *testing.T, address string, data []byte, secure bool) {
	t.Helper()
	raw, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		t.Fatalf("%s takes no connection: %v", address, err)
	}
	defer raw.Close()
	conn := raw
	_ = raw.SetDeadline(time.Now().Add(2 * time.Second))
	if secure {
		conn = tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	}
	_, _ = conn.Write(data)
	_ = raw.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	_, _ = conn.Read(make([]byte, 1000))
}

// A statement of 100 MB is refused in words, without taking its size in memory.
func TestHugeStatementIsRefused(t *testing.T) {
	full(t)
	c := startCluster(t, 1)
	n := c.nodes[0]
	exec1(t, n.mustConnect("main"), "create table t(x text)")
	before := n.residentBytes(t)
	huge := "insert into t values('" + strings.Repeat("x", 100_000_000) + "')"
	for _, mode := range []string{"simple", "prepared"} {
		conn := n.mustConnect("main")
		var err error
		if mode == "simple" {
			_, err = conn.PgConn().Exec(background(t), huge).ReadAll()
		} else {
			_, err = conn.Exec(background(t), "insert into t values($1)", huge)
		}
		wantState(t, mode, err, "54000")
		t.Logf("%s: %v", mode, err)
	}
	if grown := n.residentBytes(t) - before; grown > 150<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
	if got := value(t, n.mustConnect("main"), "select count(*) from t"); got != "0" {
		t.Errorf("%s rows", got)
	}
	out, errs, err := run(huge, n.url(), "sql", "main")
	if err == nil {
		t.Errorf("skein sql took it: %s", tail(out, 300))
	}
	if !strings.Contains(errs, "longer than") || !strings.Contains(errs, "Hint") {
		t.Errorf("skein sql: %s", tail(errs, 300))
	}
}

// A million rows that a client reads slowly come whole, cost little memory,
// and keep nobody waiting.
func TestSlowReaderOfAMillionRows(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	leader := c.leader("main")
	follower := c.others(leader)[0]
	other := leader.mustConnect("main")
	exec1(t, other, "create table t(x)")
	for _, level := range []string{"any", "leader"} {
		conn := follower.mustConnect("main")
		exec1(t, conn, "set skein.read = '"+level+"'")
		before, before2 := follower.residentBytes(t), leader.residentBytes(t)
		grown := int64(0)
		rows, err := conn.Query(background(t), `with recursive n(i) as (select 1 union all select i+1 from n where i < 1000000)
			select i, 'a row of about a hundred bytes, which makes a hundred megabytes in all, too much to hold ' || i from n`)
		if err != nil {
			t.Fatal(err)
		}
		count, longest := 0, time.Duration(0)
		for rows.Next() {
			if count++; count%50000 == 0 {
				began := time.Now()
				exec1(t, other, "insert into t values(1)")
				longest = max(longest, time.Since(began))
				time.Sleep(20 * time.Millisecond)
				grown = max(grown, follower.residentBytes(t)-before, leader.residentBytes(t)-before2)
			}
		}
		if rows.Err() != nil || count != 1000000 {
			t.Errorf("%s: %d rows, %v", level, count, rows.Err())
		}
		if grown > 200<<20 {
			t.Errorf("%s: memory grew by %d MiB", level, grown>>20)
		}
		if longest > 5*time.Second {
			t.Errorf("%s: a write had to wait %v", level, longest)
		}
		t.Logf("%s: memory grew by at most %d MiB, a write took at most %v", level, grown>>20, longest)
	}
}

// A reader that stays open for long keeps SQLite's WAL from being reset; after
// it the WAL is small again.
func TestWALShrinksAfterALongReader(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	leader := c.leader("main")
	follower := c.others(leader)[0]
	writer := leader.mustConnect("main")
	exec1(t, writer, "create table t(id integer primary key, x blob)")
	exec1(t, writer, "insert into t select value, randomblob(500) from generate_series(1, 20000)")
	var readers []net.Conn
	for _, n := range []*node{leader, follower} {
		conn := n.mustConnect("main")
		exec1(t, conn, "set skein.read = 'any'")
		eventually(t, patience, "all rows at "+n.name, func() error {
			if got := value(t, conn, "select count(*) from t"); got != "20000" {
				return fmt.Errorf("%s rows", got)
			}
			return nil
		})
		rows, err := conn.Query(background(t), "select a.id, a.x, b.x from t a, t b") // More than any buffer holds.
		readers = append(readers, conn.PgConn().Conn())
		if err != nil || !rows.Next() {
			t.Fatalf("reader at %s: %v, %v", n.name, err, rows.Err())
		}
	}
	for range 120 {
		exec1(t, writer, "update t set x = randomblob(500) where id <= 2000")
	}
	for _, n := range []*node{leader, follower} {
		t.Logf("%s: WAL of %d KiB while the reader is open", n.name, walSize(t, n)>>10)
	}
	for _, reader := range readers {
		reader.Close()
	}
	eventually(t, patience, "a small WAL", func() error {
		exec1(t, writer, "update t set x = randomblob(500) where id <= 20")
		for _, n := range c.nodes {
			if size := walSize(t, n); size > 64<<20 { // What is kept for the next writes.
				return fmt.Errorf("%s: %d KiB", n.name, size>>10)
			}
		}
		return nil
	})
	c.equal("main", 3)
}

func mainFolder(t *testing.T, n *node) string {
	t.Helper()
	found, err := filepath.Glob(n.dir + "/db/main.*")
	if err != nil || len(found) != 1 {
		t.Fatalf("folders of main at %s: %v, %v", n.name, found, err)
	}
	return found[0]
}

func walSize(t *testing.T, n *node) int64 {
	t.Helper()
	st, err := os.Stat(mainFolder(t, n) + "/main.sqlite-wal")
	if err != nil {
		if os.IsNotExist(err) {
			return 0
		}
		t.Fatal(err)
	}
	return st.Size()
}

// refused starts a node that must not start, and returns what it says.
func refused(t *testing.T, n *node) string {
	t.Helper()
	p := start(t, n.name+" refused", n.env, n.arguments()...)
	if err := p.wait(t, patience); err == nil {
		t.Errorf("%v: ended without an error", n.arguments())
	}
	return p.output.String()
}

// A folder of another node, a folder in use and a port in use are refused in
// words that name them.
func TestWrongFoldersAndPortsAreRefused(t *testing.T) {
	full(t)
	c := startCluster(t, 1)
	n := c.nodes[0]
	expect := func(what string, other node, words ...string) {
		t.Helper()
		said := refused(t, &other)
		for _, word := range words {
			if !strings.Contains(said, word) {
				t.Errorf("%s: no %q in\n%s", what, word, said)
			}
		}
		t.Logf("%s:\n%s", what, said)
	}
	second := *c.plan()
	second.join = nil
	twin := second
	twin.dir, twin.certs = n.dir, n.certs
	expect("two processes on one folder", twin, n.dir, fmt.Sprint(n.PID), "Hint")
	for _, port := range []string{"pg", "http", "peer"} {
		busy := second
		busy.dir += "-" + port
		taken := map[string]*string{"pg": &busy.pg, "http": &busy.http, "peer": &busy.peer}[port]
		*taken = map[string]string{"pg": n.pg, "http": n.http, "peer": n.peer}[port]
		expect("port in use for "+port, busy, *taken, "in use")
	}
	n.stop(t)
	thief := second
	thief.dir = n.dir
	expect("another node's folder", thief, n.dir, "belongs to node", "Hint")
	mustRun(t, nil, "cert", "ca", c.dir+"/other-ca")
	id := nodeID(t, n.certs)
	mustRun(t, nil, "cert", "node", "--ca", c.dir+"/other-ca", "--out", c.dir+"/other-certs", "--host", "127.0.0.1", "--id", id)
	foreign := *n
	foreign.certs = c.dir + "/other-certs"
	expect("another cluster's folder", foreign, "belongs to cluster", "Hint")
	n.start()
	c.nodes = c.nodes[:1]
	c.whole("main")
}

// nodeID reads the id from `skein cert show`.
func nodeID(t *testing.T, certs string) string {
	t.Helper()
	text := mustRun(t, nil, "cert", "show", certs)
	fields := strings.Fields(text)
	for i, f := range fields {
		if strings.EqualFold(strings.Trim(f, ":"), "node") && i+1 < len(fields) && len(strings.Trim(fields[i+1], ",.")) == 16 {
			return strings.Trim(fields[i+1], ",.")
		}
	}
	t.Fatalf("no node id in %q", text)
	return ""
}

// flip changes one bit of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[at] ^= 0x10
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A bit that flips in a log segment while the node is down is noticed, and the
// replica is whole again without a person.
func TestFlippedBitInTheLogHeals(t *testing.T) {
	full(t)
	c := startCluster(t, 3)
	exec1(t, c.nodes[0].mustConnect("main"), ledgerTable)
	w := startWriters(t, "main", c.nodes...)
	w.progress(30)
	victim := c.others(c.leader("main"))[0]
	victim.kill()
	segments, err := filepath.Glob(mainFolder(t, victim) + "/log/*")
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments: %v, %v", segments, err)
	}
	for _, segment := range segments {
		data, err := os.ReadFile(segment)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(data, []byte("ledger(id")); at > 0 {
			flip(t, segment, int64(at))
			t.Logf("flipped a bit at %d of %s", at, segment)
		}
	}
	victim.start()
	c.whole("main")
	w.progress(10)
	w.verify("main", c.nodes...)
	c.equal("main", 3)
	for line := range strings.Lines(victim.output.String()) {
		if strings.Contains(line, "WARN") || strings.Contains(line, "ERROR") {
			t.Logf("%s", strings.TrimSpace(line))
		}
	}
}
