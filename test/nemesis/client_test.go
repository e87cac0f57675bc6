package nemesis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/check"
	"github.com/skeindb/skein/internal/token"
)

// schema of the lists and registers. Nothing but the order of arrival at the
// leader gives an element its id, and a row applied twice is there twice.
var schema = []string{
	"create table element(id integer primary key autoincrement, key text not null, value integer not null)",
	"create index element_key on element(key)",
	"create table register(key text primary key, value integer not null)",
}

// historyLost is what a session is told that has seen what a failover undid.
const historyLost = "which a failover with loss has undone"

// pace is how long a client rests between operations.
const pace = 40 * time.Millisecond

// workload is what all clients share.
type workload struct {
	cluster *cluster
	record  *recorder
	values  atomic.Int64
	// durability of the database, if it is not quorum.
	durability base.Level
	// stopping ends clients between operations; their context ends them at once.
	stopping atomic.Bool
}

// keys change every few seconds, so that lists stay short.
func (w *workload) key(r *rand.Rand, kind string) string {
	return fmt.Sprintf("%s%d-%d", kind, w.record.now()/(8*time.Second), r.IntN(3))
}

// client is one client with at most one connection.
type client struct {
	*workload
	name string
	// homes are the nodes that it connects to, in turn; several at once are one
	// connection string, of which the driver takes the first that leads.
	homes   []int
	several bool
	roams   bool // reconnects now and then, and hands on its token
	names   bool // names its appends, and repeats those of unknown outcome
	random  *rand.Rand

	conn    *pgx.Conn
	node    string
	level   string
	token   string
	session int
	until   time.Time // of the connection, for one that roams
}

// run works until it is told to stop.
func (c *client) run(ctx context.Context) {
	defer c.hangUp()
	for ctx.Err() == nil && !c.stopping.Load() {
		if c.conn == nil || c.conn.IsClosed() || c.roams && time.Now().After(c.until) {
			c.hangUp()
			if err := c.connect(ctx); err != nil {
				c.hangUp()
				c.rest(ctx, 100*time.Millisecond)
				continue
			}
		}
		c.operate(ctx)
		c.rest(ctx, pace/2+time.Duration(c.random.Int64N(int64(pace))))
	}
}

func (c *client) rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (c *client) hangUp() {
	if c.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		_ = c.conn.Close(ctx) // It may be lost already.
		c.conn = nil
	}
}

func (c *client) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	order := []int{c.homes[c.random.IntN(len(c.homes))]}
	attributes := "any"
	if c.several {
		order, attributes = c.random.Perm(len(c.cluster.nodes)), "read-write"
	}
	var hosts []string
	for _, i := range order {
		hosts = append(hosts, c.cluster.nodes[i].name+":"+pgPort)
	}
	config, err := pgx.ParseConfig(fmt.Sprintf("postgres://someone@%s/%s?sslmode=disable&connect_timeout=2&target_session_attrs=%s",
		strings.Join(hosts, ","), database, attributes))
	if err != nil {
		return err
	}
	config.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	config.DialFunc = func(ctx context.Context, _, at string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(at)
		if err != nil {
			return nil, err
		}
		return c.cluster.network.Dial(ctx, int(host[1]-'1'), "127.0.0.1:"+port)
	}
	if c.conn, err = pgx.ConnectConfig(ctx, config); err != nil {
		return err
	}
	if err := c.conn.QueryRow(ctx, "show skein.node").Scan(&c.node); err != nil {
		return err
	}
	c.level = "session"
	settings := "set skein.report_token = on; set statement_timeout = '8s'"
	if c.roams && c.token != "" {
		settings += "; set skein.token = '" + c.token + "'"
	} else {
		c.session++ // Nothing of the last connection is promised to this one.
	}
	c.until = time.Now().Add(time.Duration(c.random.Int64N(int64(4 * time.Second))))
	_, err = c.conn.Exec(ctx, settings)
	return err
}

// operate draws an operation.
func (c *client) operate(ctx context.Context) {
	list := func() string { return c.key(c.random, "l") }
	register := c.key(c.random, "r")
	switch n := c.random.IntN(100); {
	case n < 25:
		c.appendAndRead(ctx, list())
	case n < 45:
		c.do(ctx, []string{"session", "leader", "any"}[c.random.IntN(3)], c.reads(list(), list())...)
	case n < 70:
		first, second := list(), list()
		steps := []check.Act{{Kind: check.Read, Key: first}, {Kind: check.Append, Key: second, Value: c.values.Add(1)}}
		if c.random.IntN(2) == 0 {
			steps = append(steps, check.Act{Kind: check.Append, Key: first, Value: c.values.Add(1)}, check.Act{Kind: check.Read, Key: second})
		}
		c.do(ctx, "session", steps...)
	case n < 80:
		c.do(ctx, "session", check.Act{Kind: check.Write, Key: register, Value: c.values.Add(1)})
	case n < 90:
		c.do(ctx, "leader", check.Act{Kind: check.Get, Key: register})
	default:
		c.compareAndSet(ctx, register)
	}
}

func (c *client) reads(keys ...string) []check.Act {
	var list []check.Act
	for _, key := range slices.Compact(keys) {
		list = append(list, check.Act{Kind: check.Read, Key: key})
	}
	return list
}

// appendAndRead at times reads what it has just written: at once, at another
// node if it roams, which then can't have it yet.
func (c *client) appendAndRead(ctx context.Context, key string) {
	written := c.do(ctx, "session", check.Act{Kind: check.Append, Key: key, Value: c.values.Add(1)})
	if written == nil || c.random.IntN(2) == 0 {
		return
	}
	if c.roams {
		c.hangUp()
		if c.connect(ctx) != nil {
			c.hangUp()
			return
		}
	}
	c.do(ctx, "session", c.reads(key)...)
}

// compareAndSet reads a register at the leader and sets it if it still holds
// what was read.
func (c *client) compareAndSet(ctx context.Context, key string) {
	acts := c.do(ctx, "leader", check.Act{Kind: check.Get, Key: key})
	if acts == nil || len(acts[0].Saw) == 0 {
		return
	}
	c.do(ctx, "session", check.Act{Kind: check.CAS, Key: key, Expect: acts[0].Saw[0], Value: c.values.Add(1)})
}

// do runs acts as one operation, in a transaction if they are several (or, if
// all are reads, sometimes in one statement), and records it. It returns the acts if it is done.
func (c *client) do(ctx context.Context, level string, acts ...check.Act) []check.Act {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if level != c.level {
		if _, err := c.conn.Exec(ctx, "set skein.read = '"+level+"'"); err != nil {
			return nil // Nothing was asked of the database yet.
		}
		c.level = level
	}
	name := ""
	if c.names && len(acts) == 1 && acts[0].Kind == check.Append {
		name = fmt.Sprintf("append-%d", acts[0].Value)
		if _, err := c.conn.Exec(ctx, "set skein.operation = '"+name+"'"); err != nil {
			return nil
		}
	}
	o := check.Op{Client: c.name, Session: fmt.Sprintf("%s.%d", c.name, c.session), Node: c.node, Level: level, Acts: slices.Clone(acts)}
	if o.Writes() {
		o.Durability = c.durability
	}
	id := c.record.invoke(o)
	run := c.single
	if len(acts) > 1 && (o.Writes() || c.random.IntN(2) == 0) {
		run = c.transaction
	}
	r := check.Result{Outcome: base.Done, Acts: slices.Clone(acts)}
	err := run(ctx, r.Acts)
	if err != nil {
		r = check.Result{Outcome: outcomeOf(err, o.Writes()), Error: err.Error()}
		if name != "" && r.Outcome == base.Indeterminate {
			r.Outcome = c.repeat(name, acts[0])
		}
	} else {
		r.Token = c.conn.PgConn().ParameterStatus("skein.token")
		c.token = r.Token
		if level != "any" || o.Writes() {
			r.Position = positionOf(r.Token)
		}
	}
	c.record.back(id, r)
	if err != nil {
		if strings.Contains(err.Error(), historyLost) {
			c.token = "" // What it had seen is gone: it goes on from what there is.
			c.hangUp()
		}
		return nil
	}
	return r.Acts
}

// repeat finds out what became of a named append by doing it again under its
// name, which applies it once; at times it asks first.
func (c *client) repeat(name string, a check.Act) base.Outcome {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for ; ctx.Err() == nil; c.rest(ctx, 100*time.Millisecond) {
		c.hangUp()
		if c.connect(ctx) != nil {
			continue
		}
		if _, err := c.conn.Exec(ctx, "set skein.operation = '"+name+"'"); err != nil {
			continue
		}
		var told string
		if c.random.IntN(2) == 0 && c.conn.QueryRow(ctx, "show skein.outcome").Scan(&told) == nil && told == "applied" {
			c.hangUp() // The name still waits for its write, and the next is another.
			return base.Done
		}
		if err := c.act(ctx, c.conn, &a); err == nil || outcomeOf(err, true) == base.Done {
			return base.Done
		}
	}
	return base.Indeterminate
}

func positionOf(text string) base.Position {
	t, err := token.Parse(text)
	if err != nil || len(t.Entries()) != 1 {
		return base.Position{}
	}
	return t.Entries()[0].Position
}

// notDone marks errors of a transaction before its COMMIT was sent.
type notDone struct{ error }

func (e notDone) Unwrap() error { return e.error }

// outcomeOf is what a client knows after an error.
func outcomeOf(err error, writes bool) base.Outcome {
	if !writes {
		return base.NotDone
	}
	// The driver calls it safe to retry when a connection breaks under a COMMIT,
	// which it then finds closed; it is not.
	safe := pgconn.SafeToRetry(err) && !errors.Is(err, pgconn.ErrConnClosed)
	if _, before := errors.AsType[notDone](err); before || safe || errors.Is(err, pgx.ErrTxCommitRollback) {
		return base.NotDone
	}
	if told, ok := errors.AsType[*pgconn.PgError](err); ok {
		for _, o := range []base.Outcome{base.NotDone, base.Done} {
			if strings.HasPrefix(told.Detail, string(o)) {
				return o
			}
		}
	}
	return base.Indeterminate
}

// errMismatch is a comparison that found another value: nothing was set.
var errMismatch = notDone{errors.New("the register holds another value")}

// single runs one statement.
func (c *client) single(ctx context.Context, acts []check.Act) error {
	if acts[0].Kind == check.Read {
		return c.readLists(ctx, c.conn, acts)
	}
	return c.act(ctx, c.conn, &acts[0])
}

// querier is a connection or a transaction.
type querier interface {
	Exec(ctx context.Context, sql string, arguments ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, arguments ...any) (pgx.Rows, error)
}

// readLists reads several lists in one statement: one snapshot.
func (c *client) readLists(ctx context.Context, q querier, acts []check.Act) error {
	arguments := []any{acts[0].Key, acts[len(acts)-1].Key}
	rows, err := q.Query(ctx, "select key, value from element where key in ($1, $2) order by id", arguments...)
	if err != nil {
		return err
	}
	defer rows.Close()
	saw := map[string][]int64{}
	for rows.Next() {
		var key string
		var value int64
		if err := rows.Scan(&key, &value); err != nil {
			return err
		}
		saw[key] = append(saw[key], value)
	}
	for i := range acts {
		acts[i].Known, acts[i].Saw = true, saw[acts[i].Key]
	}
	return rows.Err()
}

func (c *client) act(ctx context.Context, q querier, a *check.Act) error {
	switch a.Kind {
	case check.Append:
		_, err := q.Exec(ctx, "insert into element(key, value) values($1, $2)", a.Key, a.Value)
		return err
	case check.Write:
		_, err := q.Exec(ctx, "insert into register(key, value) values($1, $2) on conflict(key) do update set value = excluded.value", a.Key, a.Value)
		return err
	case check.CAS:
		tag, err := q.Exec(ctx, "update register set value = $3 where key = $1 and value = $2", a.Key, a.Expect, a.Value)
		if err == nil && tag.RowsAffected() == 0 {
			return errMismatch
		}
		return err
	case check.Get:
		rows, err := q.Query(ctx, "select value from register where key = $1", a.Key)
		if err != nil {
			return err
		}
		values, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		a.Known = true
		for _, v := range values {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return err
			}
			a.Saw = append(a.Saw, n)
		}
		return nil
	}
	list := []check.Act{*a}
	err := c.readLists(ctx, q, list)
	*a = list[0]
	return err
}

// transaction runs acts between BEGIN and COMMIT.
func (c *client) transaction(ctx context.Context, acts []check.Act) error {
	tx, err := c.conn.Begin(ctx)
	if err != nil {
		return notDone{err}
	}
	for i := range acts {
		if err := c.act(ctx, tx, &acts[i]); err != nil {
			return notDone{errors.Join(err, tx.Rollback(ctx))}
		}
	}
	return tx.Commit(ctx)
}
