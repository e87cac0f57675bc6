package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
)

// tailFlags are the flags of `skein cdc tail`.
type tailFlags struct {
	query adminclient.ChangesQuery
	file  string
	limit int
}

func (a *app) cdcCommand() *cobra.Command {
	var f tailFlags
	tail := &cobra.Command{
		Use:   "tail DATABASE",
		Short: "Print the changes of a database as they are committed",
		Long: "tail prints every row, then every change from there on, until Ctrl-C. It goes to the next\n" +
			"address and on behind the last event when a node fails; nothing is left out, and an event\n" +
			"that is printed twice has the same id.\n\n" +
			"With --offset-file it remembers in a file how far it came, and begins there the next time.",
		Example: "  skein cdc tail main\n  skein cdc tail main --now --table account --json | jq .after\n" +
			"  skein cdc tail main --json --offset-file main.offset >> changes.ndjson",
		Args: exact("DATABASE"),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := a.interruptible(c.Context())
			defer stop()
			return a.tail(ctx, args[0], &f)
		},
	}
	flags := tail.Flags()
	flags.StringVar(&f.query.Offset, "offset", "", "go on behind the event with this offset")
	flags.StringVar(&f.file, "offset-file", "", "read the offset from this file, if it is there, and keep it in it")
	flags.BoolVar(&f.query.Now, "now", false, "begin with the first change from now on, without the rows that are there")
	flags.StringArrayVar(&f.query.Tables, "table", nil, "only this table; may be given several times")
	flags.BoolVar(&f.query.Chosen, "chosen", false, "only what triggers have chosen (log format trigger)")
	flags.StringVar(&f.query.Consumer, "consumer", "", "name of this consumer in skein status and metrics")
	flags.DurationVar(&f.query.Heartbeat, "heartbeat", 5*time.Second, "how often a node tells that it is alive")
	flags.IntVar(&f.limit, "limit", 0, "end after so many events (0: never)")
	return group("cdc", "Change data capture", "", a.remote(a.withJSON(tail)), a.webhookCommand())
}

const (
	tailPause    = 100 * time.Millisecond // before the second attempt; then twice as long, up to
	tailMaxPause = 5 * time.Second
)

var (
	errTailDone   = errors.New("as many events as asked")
	errTailAnew   = errors.New("from another place")
	errTailSilent = base.Errorf(base.KindUnavailable, "the node has sent nothing for three heartbeats")
)

// tail prints a stream until it can't go on anywhere.
func (a *app) tail(ctx context.Context, database string, f *tailFlags) error {
	if f.file != "" && f.query.Offset == "" {
		kept, err := os.ReadFile(f.file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return base.Errorf(base.KindInvalid, "%w", err)
		}
		f.query.Offset = strings.TrimSpace(string(kept))
	}
	printed := 0
	return a.stream(ctx, database, &f.query, nil, func(c changefeed.Envelope) error {
		if c.Op != "heartbeat" {
			if err := a.printChange(c); err != nil {
				return err
			}
			printed++
		}
		f.query.Offset, f.query.Now = c.Offset, false
		if err := keepOffset(f.file, c.Offset); err != nil {
			return err
		}
		if f.limit > 0 && printed >= f.limit {
			return errTailDone
		}
		return nil
	})
}

// stream shows each the events of a stream, from node to node, until it can't
// go on anywhere or each returns errTailDone. Before is called for every
// connection, and may say in the query from where it goes on.
func (a *app) stream(ctx context.Context, database string, q *adminclient.ChangesQuery, before func(*adminclient.Client) error, each func(changefeed.Envelope) error) error {
	urls := a.urls()
	user, password := a.credentials()
	pause := tailPause
	for attempt := 0; ; attempt++ {
		turn := attempt % len(urls)
		client, err := adminclient.New(adminclient.Options{URLs: append(append([]string(nil), urls[turn:]...), urls[:turn]...), User: user, Password: password})
		if err != nil {
			return err
		}
		began, moved := false, false
		if before != nil {
			err = before(client)
		}
		if err == nil {
			err = a.streamOnce(ctx, client, database, *q, func(c changefeed.Envelope) error {
				began, moved = true, moved || c.Op != "heartbeat"
				return each(c)
			})
		}
		client.Close()
		switch {
		case errors.Is(err, errTailDone), ctx.Err() != nil:
			return nil
		case errors.Is(err, errTailAnew):
			continue
		case !passes(err) && !(began && base.KindOf(err) == base.KindTrimmed): // Another node may have what this one keeps no more.
			return err
		}
		if moved {
			pause = tailPause
		}
		fmt.Fprintf(a.err, "%s; going on in %v\n", err, pause)
		if a.env.Clock.Sleep(ctx, pause) != nil {
			return nil
		}
		pause = min(2*pause, tailMaxPause)
	}
}

// passes says that another attempt, at another node perhaps, may do better.
func passes(err error) bool {
	switch base.KindOf(err) {
	case base.KindUnavailable, base.KindShutdown, base.KindBusy, base.KindNoLeader, base.KindTimeout, base.KindStale, base.KindCorrupt:
		return true
	}
	return false
}

// streamOnce reads one connection's events.
func (a *app) streamOnce(ctx context.Context, client *adminclient.Client, database string, q adminclient.ChangesQuery, each func(changefeed.Envelope) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := a.env.Clock.NewTimer(3*q.Heartbeat + 5*time.Second)
	defer silence.Stop()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-silence.C():
			cancel(errTailSilent)
		case <-done:
		}
	}()
	err := client.Changes(ctx, database, q, func(c changefeed.Envelope) error {
		silence.Reset(3*q.Heartbeat + 5*time.Second)
		return each(c)
	})
	if errors.Is(context.Cause(ctx), errTailSilent) {
		return errTailSilent
	}
	return err
}

// keepOffset writes the offset after the event was printed, whole or not at
// all.
func keepOffset(file, offset string) error {
	if file == "" {
		return nil
	}
	part, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*.part")
	if err == nil {
		_, err = part.WriteString(offset + "\n")
		err = errors.Join(err, part.Close())
	}
	if err == nil {
		err = os.Rename(part.Name(), file)
	}
	if err != nil {
		return base.Errorf(base.KindDiskFull, "keep the offset: %w", err)
	}
	return nil
}

func (a *app) printChange(c changefeed.Envelope) error {
	if a.json {
		return json.NewEncoder(a.out).Encode(c)
	}
	text := strings.TrimSpace(c.DDL)
	if c.Op != "schema" {
		text = c.Op + " " + c.Source.Table + "  " + rowText(c.Key)
		if c.Message != "" {
			text = c.Op + " " + c.Message + " " + c.Source.Table
		}
		if c.Before != nil {
			text += "  before " + rowText(c.Before)
		}
		if c.After != nil {
			text += "  after " + rowText(c.After)
		}
	}
	_, err := fmt.Fprintf(a.out, "%s  %s\n", c.Source.LSN, text)
	return err
}
