package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/server"
)

// logFlags say which log is read and what of it is shown.
type logFlags struct {
	dir, from, to string
	tables        []string
	limit         int
}

func (a *app) logCommand() *cobra.Command {
	var f logFlags
	show := &cobra.Command{
		Use:   "show DATABASE",
		Short: "Show the entries of a replica's log",
		Long: "show prints the transactions in the log of one replica: that of the node that is asked,\n" +
			"or, with --dir, that in the data folder of a node that does not run.",
		Example: "  skein log show main\n  skein log show main --from 3/1200 --to 1300 --table account\n" +
			"  skein log show main --dir ./skein-data/n1/data --json | jq .changes",
		Args: exact("DATABASE"),
		RunE: func(c *cobra.Command, args []string) error { return a.showLog(c, args[0], &f) },
	}
	show.Flags().StringVar(&f.from, "from", "", "from this position on (a number, or epoch/number)")
	show.Flags().StringVar(&f.to, "to", "", "up to this position")
	show.Flags().StringArrayVar(&f.tables, "table", nil, "only changes of this table; may be given several times")
	show.Flags().IntVar(&f.limit, "limit", 0, "at most so many entries (0: all)")
	verify := &cobra.Command{
		Use:   "verify DATABASE",
		Short: "Check a replica's log: checksums, gaps, epochs, and that every entry can be read",
		Long: "verify reads the whole log of one replica from disk: that of the node that is asked, or,\n" +
			"with --dir, that in the data folder of a node that does not run. Damage is shown with the\n" +
			"segment and the byte where it is; then the exit status is 1.",
		Example: "  skein log verify main\n  skein log verify main --dir ./skein-data/n1/data",
		Args:    exact("DATABASE"),
		RunE:    func(c *cobra.Command, args []string) error { return a.verifyLog(c, args[0], &f) },
	}
	unsafe := &cobra.Command{
		Use:   "unsafe [DATABASE]",
		Short: "Show which statements travel as rows, and why",
		Long: "unsafe prints the transactions of databases with log format statement whose statements\n" +
			"could do something else in another copy, so that their rows were logged instead, with\n" +
			"the reason: of one database, or of all.",
		Example: "  skein log unsafe\n  skein log unsafe main --json | jq .reason",
		Args:    atMost(1),
		RunE:    func(c *cobra.Command, args []string) error { return a.unsafeLog(c, args, &f) },
	}
	unsafe.Flags().StringVar(&f.from, "from", "", "from this position on (a number, or epoch/number)")
	unsafe.Flags().IntVar(&f.limit, "limit", 0, "at most so many entries of each database (0: all)")
	for _, c := range []*cobra.Command{show, verify, unsafe} {
		c.Flags().StringVar(&f.dir, "dir", "", "data folder of a node that does not run, instead of asking one")
	}
	return group("log", "Look into a replica's log", "", a.remote(a.withJSON(show)), a.remote(a.withJSON(verify)), a.remote(a.withJSON(unsafe)))
}

func (a *app) showLog(c *cobra.Command, database string, f *logFlags) (err error) {
	q := httpapi.LogQuery{Tables: f.tables, Limit: f.limit}
	if q.From, err = httpapi.ParseSeq(f.from); err == nil {
		q.To, err = httpapi.ParseSeq(f.to)
	}
	if err != nil {
		return err
	}
	report, err := a.readLog(c, func(ctx context.Context, client *adminclient.Client) (*httpapi.LogReport, error) {
		if client == nil {
			return server.ShowLogFolder(ctx, a.env, f.dir, database, q, a.printEntry)
		}
		return client.ShowLog(ctx, database, q, a.printEntry)
	}, f.dir)
	if err != nil {
		return err
	}
	return a.damage(report)
}

// unsafeLog shows the entries whose statements travel as rows.
func (a *app) unsafeLog(c *cobra.Command, databases []string, f *logFlags) error {
	q := httpapi.LogQuery{Limit: f.limit, Mixed: true}
	var err error
	if q.From, err = httpapi.ParseSeq(f.from); err != nil {
		return err
	}
	if len(databases) == 0 && f.dir != "" {
		return usageError{fmt.Errorf("--dir: name the database, too"), c}
	}
	_, err = a.readLog(c, func(ctx context.Context, client *adminclient.Client) (*httpapi.LogReport, error) {
		if client == nil {
			return server.ShowLogFolder(ctx, a.env, f.dir, databases[0], q, a.printEntry)
		}
		if len(databases) > 0 {
			return client.ShowLog(ctx, databases[0], q, a.printEntry)
		}
		list, err := client.ListDatabases(ctx)
		for _, d := range list {
			if err != nil {
				break
			}
			if !a.json {
				fmt.Fprintf(a.out, "%s:\n", d.Name)
			}
			_, err = client.ShowLog(ctx, d.Name, q, a.printEntry)
		}
		return nil, err
	}, f.dir)
	return err
}

// readLog calls f with a client, or without one when a folder is to be read.
func (a *app) readLog(c *cobra.Command, f func(context.Context, *adminclient.Client) (*httpapi.LogReport, error), dir string) (*httpapi.LogReport, error) {
	ctx, stop := a.interruptible(c.Context())
	defer stop()
	if dir != "" {
		return f(ctx, nil)
	}
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return f(ctx, client)
}

func (a *app) printEntry(e httpapi.LogEntry) error {
	if a.json {
		return json.NewEncoder(a.out).Encode(e)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s  %s", e.Position, e.Time.Format("2006-01-02 15:04:05.000Z07:00"), e.Kind)
	if e.Operation != "" {
		fmt.Fprintf(&b, "  %s", e.Operation)
	}
	if !e.Safe {
		b.WriteString("  (not safe yet)")
	}
	b.WriteString("\n")
	if e.Reason != "" {
		fmt.Fprintf(&b, "  as rows: %s\n", e.Reason)
	}
	for _, s := range e.Statements {
		fmt.Fprintf(&b, "  %s\n", statementText(s))
	}
	if e.Note != "" {
		fmt.Fprintf(&b, "  (%s)\n", e.Note)
	}
	for _, c := range e.Changes {
		fmt.Fprintf(&b, "  %d  %s\n", c.Seq, changeText(c))
	}
	if e.Error != "" {
		fmt.Fprintf(&b, "  cannot be read: %s\n", e.Error)
	}
	_, err := fmt.Fprint(a.out, b.String())
	return err
}

func statementText(s httpapi.LogStatement) string {
	text := strings.TrimSuffix(strings.TrimSpace(s.SQL), ";") + ";"
	if len(s.Args) > 0 {
		args, err := json.Marshal(s.Args)
		if err != nil {
			return text + "  ?"
		}
		text += "  with " + string(args)
	}
	if s.Outside != "" {
		text += "  at " + s.Outside
	}
	return text
}

func changeText(c httpapi.LogChange) string {
	if c.SQL != "" {
		return strings.TrimSuffix(strings.TrimSpace(c.SQL), ";") + ";"
	}
	text := c.Op + " " + c.Table
	for _, part := range []struct {
		word string
		row  changefeed.Row
	}{{"", c.Key}, {"old ", c.Old}, {"new ", c.New}} {
		if part.row != nil {
			text += "  " + part.word + rowText(part.row)
		}
	}
	return text
}

func (a *app) verifyLog(c *cobra.Command, database string, f *logFlags) error {
	report, err := a.readLog(c, func(ctx context.Context, client *adminclient.Client) (*httpapi.LogReport, error) {
		if client == nil {
			return server.ShowLogFolder(ctx, a.env, f.dir, database, httpapi.LogQuery{}, nil)
		}
		return client.VerifyLog(ctx, database)
	}, f.dir)
	if err != nil {
		return err
	}
	if a.json {
		if err := a.printJSON(report); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(a.out, "%s: %d entries in %d segments (%s), from %d to %s\n", database, report.Entries, report.Segments,
			bytesText(report.Bytes), report.First, report.End)
		if t := report.Torn; t != nil {
			fmt.Fprintf(a.out, "A crash has left an unfinished write at the end, which nobody was told of: %s\n", faultText(*t))
		}
		if report.Sound {
			fmt.Fprintln(a.out, "Everything is sound.")
		}
	}
	return a.damage(report)
}

// damage is the error that a damaged log ends with.
func (a *app) damage(report *httpapi.LogReport) error {
	if report.Sound {
		return nil
	}
	lines := make([]string, 0, len(report.Faults)+1)
	for _, f := range report.Faults {
		lines = append(lines, "  "+faultText(f))
	}
	if more := report.Found - len(report.Faults); more > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", more))
	}
	return base.Errorf(base.KindCorrupt, "the log of %s is damaged in %d places:\n%s", report.Database, report.Found, strings.Join(lines, "\n")).
		WithHint("The other replicas have the same entries; this one is copied from another when it meets the damage.")
}

func faultText(f httpapi.LogFault) string {
	return fmt.Sprintf("segment %d, byte %d, after %s: %s", f.Segment, f.Offset, f.After, f.Reason)
}
