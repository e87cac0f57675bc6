package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// postgres is a primary with two standbys, one of which must have flushed a
// commit before it is acknowledged, unless they are asynchronous.
type postgres struct {
	bin     string
	dir     string
	as      *syscall.Credential // nil: whoever runs the bench
	async   bool
	port    string
	servers []*process // the primary first

	standbys []string // their ports
}

// errNoPostgres says that there is nothing to compare with.
var errNoPostgres = errors.New("no PostgreSQL")

// findPostgres checks that the programs are there and under which user they can
// run: the server refuses root.
func findPostgres(bin, dir, account string) (*postgres, error) {
	if bin == "" {
		return nil, fmt.Errorf("%w: give -pg FOLDER with postgres, initdb, pg_basebackup and pgbench", errNoPostgres)
	}
	for _, name := range []string{"postgres", "initdb", "pg_basebackup", "pgbench"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return nil, fmt.Errorf("%w: %w", errNoPostgres, err)
		}
	}
	p := &postgres{bin: bin, dir: dir}
	if os.Geteuid() != 0 {
		return p, nil
	}
	u, err := user.Lookup(account)
	if err != nil {
		return nil, fmt.Errorf("%w: it does not run as root: %w; give another account with -pg-user", errNoPostgres, err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	p.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return p, nil
}

func (p *postgres) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, program), args...)
	cmd.Dir = p.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.as}
	cmd.Env = append(os.Environ(), "HOME="+p.dir, "LC_ALL=C.UTF-8", "PGSSLMODE=disable")
	return cmd
}

func (p *postgres) do(program string, args ...string) error {
	if out, err := p.command(program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", program, err, out)
	}
	return nil
}

// open makes and starts the three servers.
func (p *postgres) open(ctx context.Context) error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	if p.as != nil {
		if err := os.Chown(p.dir, int(p.as.Uid), int(p.as.Gid)); err != nil {
			return err
		}
	}
	addresses, err := freePorts(3)
	if err != nil {
		return err
	}
	if err := p.do("initdb", "-D", p.data(0), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale"); err != nil {
		return err
	}
	for i, address := range addresses {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return err
		}
		if err := p.openServer(ctx, i, port); err != nil {
			return fmt.Errorf("server %d: %w", i+1, err)
		}
	}
	return p.prepare(ctx)
}

func (p *postgres) data(i int) string { return filepath.Join(p.dir, fmt.Sprintf("s%d", i+1)) }

func (p *postgres) openServer(ctx context.Context, i int, port string) error {
	settings := "\nport = " + port + "\n"
	if i == 0 {
		p.port = port
		settings = `
shared_buffers = 256MB
max_wal_size = 4GB
max_connections = 200
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
wal_level = replica
hot_standby = on
fsync = on
synchronous_commit = on
` + p.synchronous() + settings
	} else {
		p.standbys = append(p.standbys, port)
		from := fmt.Sprintf("host=127.0.0.1 port=%s user=postgres application_name=s%d", p.port, i+1)
		if err := p.do("pg_basebackup", "-d", from, "-D", p.data(i), "-R", "-c", "fast"); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(filepath.Join(p.data(i), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(settings)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	s, err := start(p.command("postgres", "-D", p.data(i)), filepath.Join(p.dir, fmt.Sprintf("s%d.log", i+1)))
	if err != nil {
		return err
	}
	p.servers = append(p.servers, s)
	c, err := p.connect(ctx, port)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, s.tail())
	}
	return c.Close(ctx)
}

// synchronous is the primary's setting of whom a commit waits for.
func (p *postgres) synchronous() string {
	if p.async {
		return "synchronous_standby_names = ''\n"
	}
	return "synchronous_standby_names = 'ANY 1 (s2, s3)'\n"
}

// connect waits until a server takes connections.
func (p *postgres) connect(ctx context.Context, port string) (*pgx.Conn, error) {
	deadline := time.Now().Add(30 * time.Second)
	for {
		c, err := pgx.Connect(ctx, "postgres://postgres@127.0.0.1:"+port+"/postgres?sslmode=disable")
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return c, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// prepare waits for both standbys and fills the table.
func (p *postgres) prepare(ctx context.Context) error {
	c, err := p.connect(ctx, p.port)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	state := "quorum"
	if p.async {
		state = "async"
	}
	deadline := time.Now().Add(30 * time.Second)
	for n := 0; n < 2; {
		err := c.QueryRow(ctx, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = $1", state).Scan(&n)
		if err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of 2 standbys stream after 30 s", n)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := load(ctx, c); err != nil {
		return err
	}
	_, err = c.Exec(ctx, "VACUUM ANALYZE accounts")
	return err
}

// logged is the position of the primary's log, in bytes.
func (p *postgres) logged(ctx context.Context) (n int64, err error) {
	c, err := p.connect(ctx, p.port)
	if err != nil {
		return 0, err
	}
	defer c.Close(ctx)
	err = c.QueryRow(ctx, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").Scan(&n)
	return n, err
}

func (p *postgres) pids() []int {
	var pids []int
	for _, s := range p.servers {
		pids = append(pids, s.pid())
	}
	return pids
}

func (p *postgres) close() {
	for _, s := range p.servers {
		s.signal(syscall.SIGINT)
	}
	for _, s := range p.servers {
		s.stop(syscall.SIGINT)
	}
	p.servers = nil
}
