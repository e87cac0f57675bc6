package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// rqlite is three nodes of that program. Writes go to the first, which leads.
type rqlite struct {
	program, dir string
	address      string // of the first node's HTTP API
	nodes        []*process
	http         *http.Client
}

func (r *rqlite) open(ctx context.Context) error {
	r.http = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 128}}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return err
	}
	first := ""
	for i := range 3 {
		ports, err := freePorts(2)
		if err != nil {
			return err
		}
		args := []string{"-node-id", fmt.Sprint(i + 1), "-http-addr", ports[0], "-raft-addr", ports[1]}
		if i == 0 {
			r.address, first = ports[0], ports[1]
		} else {
			args = append(args, "-join", first)
		}
		args = append(args, filepath.Join(r.dir, fmt.Sprint("data", i+1)))
		p, err := start(exec.Command(r.program, args...), filepath.Join(r.dir, fmt.Sprintf("n%d.log", i+1)))
		if err != nil {
			return err
		}
		r.nodes = append(r.nodes, p)
		if err := r.awaitReady(ctx, ports[0], p); err != nil {
			return err
		}
	}
	for _, sql := range tableSQL() {
		if err := r.execute(ctx, []any{sql}); err != nil {
			return err
		}
	}
	return nil
}

func (r *rqlite) awaitReady(ctx context.Context, address string, p *process) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", nil)
		if err != nil {
			return err
		}
		if response, err := r.http.Do(request); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		if !p.alive() || time.Now().After(deadline) {
			return fmt.Errorf("it is not ready:\n%s", p.tail())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// execute runs one statement with its parameters.
func (r *rqlite) execute(ctx context.Context, statement []any) error {
	body, err := json.Marshal([][]any{statement})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.address+"/db/execute", bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := r.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK || strings.Contains(string(answer), `"error"`) {
		return fmt.Errorf("status %d: %s", response.StatusCode, answer)
	}
	return nil
}

func (r *rqlite) updates(ctx context.Context, clients int, length time.Duration) (speed, error) {
	return drive(clients, length, func(int) (func(int64, int64) error, error) {
		return func(delta, aid int64) error {
			return r.execute(ctx, []any{"UPDATE accounts SET abalance = abalance + ? WHERE aid = ?", delta, aid})
		}, nil
	})
}

func (r *rqlite) pids() []int {
	var pids []int
	for _, p := range r.nodes {
		pids = append(pids, p.pid())
	}
	return pids
}

func (r *rqlite) close() {
	for _, p := range r.nodes {
		p.stop(syscall.SIGTERM)
	}
}
