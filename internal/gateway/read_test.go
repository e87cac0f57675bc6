package gateway

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
)

// snapshot is a read transaction at 3/9 whose rows are given.
type snapshot struct {
	replica.ReadTx
	rows session.Rows
}

func (s snapshot) Position() base.Position { return base.Position{Epoch: 3, Seq: 9} }
func (s snapshot) Close() error            { return nil }

func (s snapshot) Query(context.Context, replica.Statement) (session.Rows, error) {
	return s.rows, nil
}

// reader is a replica of one snapshot.
type reader struct {
	oracle
	rows session.Rows
}

func (r *reader) Lineage(base.Position) bool              { return true }
func (r *reader) Replica(base.DatabaseID) replica.Replica { return r }
func (r *reader) Describe(context.Context, string) (*session.Description, error) {
	return &session.Description{Kind: session.Read, Tag: "SELECT"}, nil
}

func (r *reader) BeginRead(context.Context, replica.ReadRequest) (replica.ReadTx, error) {
	return snapshot{rows: r.rows}, nil
}

// heldBack are rows that a failover undoes, after some that were shown.
type heldBack struct {
	session.Rows
	left int
	err  error
}

func (h *heldBack) Next() bool { h.left--; return h.left >= 0 }
func (h *heldBack) Err() error {
	if h.left < 0 {
		return h.err
	}
	return nil
}
func (h *heldBack) Row() []base.Value { return nil }
func (h *heldBack) Close() error      { return nil }
func (h *heldBack) Result() session.Result {
	return session.Result{Position: base.Position{Epoch: 3, Seq: 9}}
}

// A session has seen the position of a read once anything of it was shown: a
// row, or that there is none. What a failover undid before that it has not seen,
// and no later read must miss it.
func TestTokenHoldsWhatWasShown(t *testing.T) {
	undone := errors.New("a failover undid writes that this read had seen before they were safe")
	for name, c := range map[string]struct {
		rows   heldBack
		closed bool // before anything was asked for
		seen   base.Seq
	}{
		"nothing was shown":        {rows: heldBack{err: undone}},
		"closed before the first":  {rows: heldBack{left: 2}, closed: true},
		"no row, and that is sure": {rows: heldBack{}, seen: 9},
		"a row":                    {rows: heldBack{left: 2}, seen: 9},
		"a row, and then an error": {rows: heldBack{left: 1, err: undone}, seen: 9},
	} {
		for _, in := range []string{"a transaction that ends", "a transaction that fails"} {
			rows := c.rows // Each has its own.
			r := &reader{rows: &rows}
			g := &Gateway{env: env.Real(slog.New(slog.DiscardHandler)), directory: r}
			s := &clientSession{gateway: g, options: session.Options{Database: "shop", Trusted: true}}
			if _, err := s.begin(); err != nil {
				t.Fatal(err)
			}
			read, err := s.tx.query(t.Context(), statement{description: &session.Description{Kind: session.Read}})
			if err != nil {
				t.Fatal(err)
			}
			for !c.closed && read.Next() {
				continue
			}
			read.Close()
			if _, err := s.end(t.Context(), in == "a transaction that ends"); err != nil {
				t.Fatal(err)
			}
			if got := s.token.Get(7).Seq; got != c.seen {
				t.Errorf("%s, in %s: the token has seen %d, want %d", name, in, got, c.seen)
			}
		}
	}
}
