package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/partial"
)

func (a *app) followCommand() *cobra.Command {
	f := followFlags{query: adminclient.ChangesQuery{Chosen: true}}
	c := &cobra.Command{
		Use:   "follow DATABASE FILE",
		Short: "Keep a partial replica in an SQLite file: the tables, columns and rows that are chosen",
		Long: "follow keeps FILE equal to what the triggers of a database of log format trigger choose\n" +
			"(skein db replicate): first a copy, then every transaction, until Ctrl-C. FILE is plain\n" +
			"SQLite; read it with anything while it is followed, and write to it with nothing else.\n\n" +
			"A partial replica is no member of the cluster: no commit waits for it, and it can't lead.\n" +
			"It goes on where it was when it starts again. When what is chosen or the schema changes,\n" +
			"or the log no longer reaches back, it takes a new copy; FILE shows the old one until then.",
		Example: "  skein db alter shop --log-format trigger\n" +
			"  skein db replicate shop --table orders --columns total,region --where \"NEW.region = 'eu'\"\n" +
			"  skein follow shop eu.db",
		Args: exact("DATABASE", "FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := a.interruptible(c.Context())
			defer stop()
			return a.follow(ctx, args[0], args[1], &f)
		},
	}
	c.Flags().BoolVar(&f.once, "once", false, "end when it has caught up")
	c.Flags().DurationVar(&f.query.Heartbeat, "heartbeat", 5*time.Second, "how often a node tells that it is alive")
	return a.remote(c)
}

// followFlags are the flags of `skein follow`.
type followFlags struct {
	query adminclient.ChangesQuery
	once  bool
}

func (a *app) follow(ctx context.Context, database, path string, f *followFlags) (err error) {
	file, err := partial.Open(ctx, path, database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	f.query.Consumer = "follow " + path
	if len(f.query.Consumer) > 100 {
		f.query.Consumer = f.query.Consumer[:100]
	}
	for {
		err := a.stream(ctx, database, &f.query, func(client *adminclient.Client) error {
			return a.beginFollow(ctx, client, database, file, &f.query)
		}, func(c changefeed.Envelope) error { return a.followed(file, c, f.once) })
		switch base.KindOf(err) {
		case base.KindTrimmed, base.KindHistoryLost:
			if file.Offset() == "" {
				return err
			}
			fmt.Fprintf(a.err, "%s; taking a new copy\n", err)
			if err := file.Forget(); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// beginFollow prepares the file for a connection.
func (a *app) beginFollow(ctx context.Context, client *adminclient.Client, database string, file *partial.File, q *adminclient.ChangesQuery) error {
	if q.Offset = file.Offset(); q.Offset != "" {
		return file.Begin(nil)
	}
	declared, err := client.Query(ctx, database, httpapi.QueryRequest{SQL: `SELECT l.name, x.name, x.type, l.strict
		FROM pragma_table_list AS l, pragma_table_xinfo(l.name) AS x WHERE l.schema = 'main' AND l.type = 'table'`})
	if err != nil {
		return err
	}
	types := make(map[string]map[string]string)
	for _, row := range declared.Rows {
		table := string(row[0].Bytes)
		if types[table] == nil {
			types[table] = make(map[string]string)
		}
		types[table][string(row[1].Bytes)] = partial.Affinity(string(row[2].Bytes), row[3].Int != 0)
	}
	return file.Begin(types)
}

// followed takes one event into the file.
func (a *app) followed(file *partial.File, c changefeed.Envelope, once bool) error {
	offset, err := changefeed.ParseOffset(c.Offset)
	if err != nil {
		return err
	}
	copied := file.Offset() == ""
	err = file.Apply(&changefeed.Event{
		Op: changefeed.Op(c.Op), Table: c.Source.Table, Key: c.Key, After: c.After, SQL: c.DDL,
		Position: base.Position{Epoch: c.Source.Epoch, Seq: c.Source.Seq}, Offset: offset,
	})
	if errors.Is(err, partial.ErrNewCopy) {
		fmt.Fprintf(a.err, "at %s what is to be held has changed (%s); taking a new copy\n", c.Source.LSN, c.DDL)
		return errTailAnew
	}
	if err != nil {
		return err
	}
	if copied && file.Offset() != "" {
		fmt.Fprintf(a.err, "a copy of %d rows at %s\n", file.Rows(), file.Position())
	}
	if once && c.Op == string(changefeed.Heartbeat) {
		return errTailDone
	}
	return nil
}
