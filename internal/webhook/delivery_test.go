package webhook_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/webhook"
)

// world is a destination, a stream of numbered changes and a place for offsets,
// in virtual time.
type world struct {
	t        *testing.T
	answers  func(n int) (status int, err error) // of the nth request, from 1
	requests []*http.Request
	bodies   []string
	got      []string // ids of what was answered with success
	length   base.Seq // of the stream; then heartbeats
	sent     base.Seq // by the stream, in all
	broken   int      // how many times the stream breaks after each ten events
	kept     []changefeed.Offset
	keeps    func(from, to changefeed.Offset) error
	said     []base.Position // what was announced
	hears    func(to base.Position) error
}

func at(seq base.Seq) changefeed.Offset {
	return changefeed.Offset{Database: 1, Position: base.Position{Epoch: 1, Seq: seq}, Entry: seq + 1}
}

// RoundTrip is the destination.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	w.requests, w.bodies = append(w.requests, r), append(w.bodies, string(body))
	status := 200
	if w.answers != nil {
		if status, err = w.answers(len(w.requests)); err != nil {
			return nil, err
		}
	}
	if status < 300 {
		for line := range strings.Lines(string(body)) {
			var c changefeed.Envelope
			if err := json.Unmarshal([]byte(line), &c); err != nil {
				w.t.Errorf("%s: %v", line, err)
			}
			w.got = append(w.got, c.ID)
		}
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Body: io.NopCloser(bufio.NewReader(strings.NewReader("no"))), Request: r}, nil
}

func (w *world) source(ctx context.Context, q changefeed.Request, heartbeat time.Duration, to changefeed.Sink) error {
	for seq := q.From.Position.Seq + 1; seq <= w.length; seq++ {
		w.sent++
		e := &changefeed.Event{Op: changefeed.Create, Table: "t", After: changefeed.Row{{Name: "n", Value: base.IntValue(int64(seq))}}, Position: at(seq).Position, First: seq, Offset: at(seq)}
		if err := to.Send(e); err != nil {
			return err
		}
		if w.broken > 0 && seq%10 == 0 {
			w.broken--
			return base.Errorf(base.KindUnavailable, "the replica is closing")
		}
	}
	for {
		if err := to.Flush(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(heartbeat):
		}
		if err := to.Send(&changefeed.Event{Op: changefeed.Heartbeat, Offset: at(w.length)}); err != nil {
			return err
		}
	}
}

func (w *world) save(_ context.Context, from, to changefeed.Offset) error {
	if w.keeps != nil {
		if err := w.keeps(from, to); err != nil {
			return err
		}
	}
	w.kept = append(w.kept, to)
	return nil
}

func (w *world) announce(_ context.Context, to base.Position) error {
	if w.hears != nil {
		if err := w.hears(to); err != nil {
			return err
		}
	}
	w.said = append(w.said, to)
	return nil
}

// deliver runs a delivery for a time.
func (w *world) deliver(from changefeed.Offset, d time.Duration) (webhook.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	del := webhook.New(env.Real(slog.New(slog.DiscardHandler)), webhook.Options{
		Hook: webhook.Hook{Database: "shop", Name: "audit", URL: "http://audit.example/in", Secret: "hidden", From: from},
		Node: "n1", HTTP: &http.Client{Transport: w}, Source: w.source, Announce: w.announce, Save: w.save,
	})
	err := del.Run(ctx)
	return del.Status(), err
}

func inTime(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) { f(t, &world{t: t}) })
}

func ids(from, to int) (list []string) {
	for n := from; n <= to; n++ {
		list = append(list, fmt.Sprintf("1/%d", n))
	}
	return list
}

func (w *world) want(list []string) {
	w.t.Helper()
	if len(w.got) != len(list) {
		w.t.Errorf("delivered %d events, want %d", len(w.got), len(list))
	}
	for i := range min(len(w.got), len(list)) {
		if w.got[i] != list[i] {
			w.t.Errorf("event %d is %s, want %s", i+1, w.got[i], list[i])
			return
		}
	}
}

// Batches are bounded, signed and in order, and the offset is kept behind what
// was answered with success.
func TestBatchesAreSignedAndKept(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.length = 1203
		st, _ := w.deliver(at(3), 10*time.Second)
		w.want(ids(4, 1203))
		if len(w.requests) != 3 || st.Delivered != 1200 || st.LastError != "" || st.At != at(1203).Position {
			t.Errorf("%d requests, %+v", len(w.requests), st)
		}
		r := w.requests[0]
		if got := r.Header.Get(webhook.SignatureHeader); got != webhook.Sign("hidden", r.Header.Get(webhook.TimestampHeader), []byte(w.bodies[0])) {
			t.Errorf("signature %s", got)
		}
		if r.Header.Get(webhook.NameHeader) != "audit" || r.Header.Get(webhook.DatabaseHeader) != "shop" || r.Header.Get(webhook.EventsHeader) != "500" || r.Header.Get("Content-Type") != "application/x-ndjson" {
			t.Errorf("headers %v", r.Header)
		}
		if n := len(w.kept); n == 0 || n > 3 || w.kept[n-1] != at(1203) {
			t.Errorf("kept %v", w.kept)
		}
	})
	if got, want := webhook.Sign("key", "1", []byte("body")), "sha256=91b5374b153842ad05b2c4eab9349b8321b14703165bd3fb8b034dfb8be98ae5"; got != want {
		t.Errorf("signature %s", got)
	}
}

// What is not answered with success is sent again, the same, later and later, and
// holds back what is behind it.
func TestADestinationThatFailsIsTriedAgain(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.length = 2000
		w.answers = func(n int) (int, error) {
			switch {
			case n < 4:
				return 500, nil
			case n < 8:
				return 0, errors.New("connection refused")
			}
			return 204, nil
		}
		st, _ := w.deliver(at(0), 3*time.Second)
		if len(w.got) != 0 || w.sent != 500 || len(w.kept) != 0 || st.Failures != 5 || st.FailingAt.IsZero() || !strings.Contains(st.LastError, "refused") {
			t.Errorf("after 3 s: %d delivered, %d read, kept %v, %+v", len(w.got), w.sent, w.kept, st)
		}
		w.requests = w.requests[:0]
		st, _ = w.deliver(at(0), time.Minute)
		w.want(ids(1, 2000))
		for _, body := range w.bodies[1:7] {
			if body[:200] != w.bodies[0][:200] {
				t.Error("what was sent again differs")
			}
		}
		if st.LastError != "" || !st.FailingAt.IsZero() || st.Failures != 7 || w.kept[len(w.kept)-1] != at(2000) {
			t.Errorf("at the end: kept %v, %+v", w.kept, st)
		}
	})
}

// A stream that breaks goes on behind what was delivered: what comes again has
// the same ids.
func TestAStreamThatBreaksGoesOn(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.length, w.broken = 25, 2
		_, _ = w.deliver(at(0), time.Minute)
		seen := map[string]bool{}
		for _, id := range w.got {
			seen[id] = true
		}
		if len(seen) != 25 || w.got[len(w.got)-1] != "1/25" {
			t.Errorf("delivered %v", w.got)
		}
	})
}

// Who is told that somebody else delivers stops; who can't have the offset kept
// goes on.
func TestOffsetsThatAreNotKept(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.length = 10
		w.keeps = func(_, to changefeed.Offset) error { return base.Errorf(base.KindConflict, "moved") }
		if _, err := w.deliver(at(0), time.Minute); !errors.Is(err, webhook.ErrMoved) {
			t.Errorf("moved: %v", err)
		}
		refusals := 3
		w.keeps = func(from, _ changefeed.Offset) error {
			if from != at(2) {
				t.Errorf("kept in place of %v", from)
			}
			if refusals--; refusals >= 0 {
				return base.Errorf(base.KindUnavailable, "no majority")
			}
			return nil
		}
		w.got = nil
		_, _ = w.deliver(at(2), time.Minute)
		w.want(ids(3, 10))
		if len(w.kept) != 1 || w.kept[0] != at(10) {
			t.Errorf("kept %v", w.kept)
		}
	})
}

// Nothing is sent before it is announced, nor by who must not any more.
func TestABatchIsAnnounced(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.length = 700
		refusals := 3
		w.answers = func(n int) (int, error) {
			if len(w.said) < n {
				t.Errorf("request %d was not announced", n)
			}
			return 200, nil
		}
		w.hears = func(base.Position) error {
			if refusals--; refusals >= 0 {
				return base.Errorf(base.KindUnavailable, "no majority")
			}
			return nil
		}
		st, _ := w.deliver(at(0), time.Minute)
		w.want(ids(1, 700))
		if len(w.said) != 2 || w.said[0] != at(500).Position || w.said[1] != at(700).Position || st.Failures != 3 {
			t.Errorf("announced %v, %+v", w.said, st)
		}
		w.hears = func(base.Position) error { return base.Errorf(base.KindConflict, "another epoch") }
		w.got = nil
		if _, err := w.deliver(at(2), time.Minute); !errors.Is(err, webhook.ErrMoved) || len(w.got) > 0 {
			t.Errorf("moved: %v, delivered %v", err, w.got)
		}
	})
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	if err := webhook.NewClient(env.Real(slog.New(slog.DiscardHandler))).CheckRedirect(nil, nil); !errors.Is(err, http.ErrUseLastResponse) {
		t.Errorf("a redirect: %v", err)
	}
	inTime(t, func(t *testing.T, w *world) {
		w.length = 1
		w.answers = func(int) (int, error) { return 307, nil }
		if st, _ := w.deliver(at(0), time.Second); st.Delivered != 0 || !strings.Contains(st.LastError, "307") {
			t.Errorf("%+v", st)
		}
	})
}
