package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/httpapi"
)

func (a *app) dbCommand() *cobra.Command {
	return group("db", "Create, list, alter, drop and verify databases", "",
		a.dbCreateCommand(), a.dbListCommand(), a.dbAlterCommand(), a.dbDropCommand(), a.dbVerifyCommand(), a.dbReplicateCommand())
}

// policyFlags are the flags of a policy; patch names those that were given.
type policyFlags struct {
	replicas                 int
	durability, retention    string
	failover, logFormat      string
	maxLag                   time.Duration
	degrade, txIdle, txTotal time.Duration
	allowLoss                bool
}

func (p *policyFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.SortFlags = false
	f.IntVar(&p.replicas, "replicas", 0, "on how many nodes it lives; 0: on every node")
	f.StringVar(&p.durability, "durability", "quorum", "what a commit waits for: async, one, quorum or all followers,\nthen received, flushed or applied: \"quorum flushed\"")
	f.DurationVar(&p.degrade, "degrade-after", 0, "go on without a follower that is gone for so long; 0: wait for it")
	f.StringVar(&p.failover, "failover", "automatic", "who decides that another node leads when the leader is lost:\nautomatic, or manual (skein failover)")
	f.BoolVar(&p.allowLoss, "allow-loss", false, "fail over even when acknowledged writes may be lost")
	f.DurationVar(&p.maxLag, "max-lag", 0, "with --allow-loss: not when the best follower was behind for longer; 0: any lag")
	f.StringVar(&p.logFormat, "log-format", base.FormatRow, "how transactions are logged and sent to followers: "+strings.Join(base.LogFormats, ", "))
	f.StringVar(&p.retention, "retention", "256MiB", "how much log is kept for followers that are away")
	f.DurationVar(&p.txIdle, "tx-idle-timeout", base.DefaultTxIdleTimeout, "end a write transaction that does nothing for so long")
	f.DurationVar(&p.txTotal, "tx-total-timeout", base.DefaultTxTotalTimeout, "end a write transaction after so long")
}

func (p *policyFlags) patch(c *cobra.Command) (httpapi.PolicyPatch, error) {
	var patch httpapi.PolicyPatch
	given := c.Flags().Changed
	if given("replicas") {
		patch.Replicas = &p.replicas
	}
	if given("durability") {
		patch.Durability = &p.durability
	}
	if given("failover") {
		patch.Failover = &p.failover
	}
	if given("log-format") {
		patch.LogFormat = &p.logFormat
	}
	if given("allow-loss") {
		patch.AllowLoss = &p.allowLoss
	}
	if given("retention") {
		n, err := parseBytes(p.retention)
		if err != nil {
			return patch, usageError{fmt.Errorf("--retention %w", err), c}
		}
		patch.RetentionBytes = &n
	}
	for name, field := range map[string]struct {
		to    **string
		value time.Duration
	}{"degrade-after": {&patch.DegradeAfter, p.degrade}, "max-lag": {&patch.MaxLag, p.maxLag}, "tx-idle-timeout": {&patch.TxIdleTimeout, p.txIdle}, "tx-total-timeout": {&patch.TxTotalTimeout, p.txTotal}} {
		if given(name) {
			text := field.value.String()
			*field.to = &text
		}
	}
	// What cannot be right is refused before anything is sent.
	if _, err := patch.Apply(base.DefaultPolicy()); err != nil {
		return patch, err
	}
	return patch, nil
}

// parseBytes reads a size such as 1000, 64KiB or 2GiB; MB counts as MiB.
func parseBytes(s string) (int64, error) {
	digits := strings.TrimRight(s, "KMGTiBkmgtb ")
	n, err := strconv.ParseInt(digits, 10, 64)
	unit := strings.ToUpper(strings.TrimSpace(s[len(digits):]))
	shift, ok := map[string]int{"": 0, "B": 0, "K": 10, "KB": 10, "KIB": 10, "M": 20, "MB": 20, "MIB": 20, "G": 30, "GB": 30, "GIB": 30, "T": 40, "TB": 40, "TIB": 40}[unit]
	if err != nil || !ok || n < 0 || n<<shift>>shift != n {
		return 0, fmt.Errorf("%q: want a size such as 64MiB", s)
	}
	return n << shift, nil
}

func (a *app) dbCreateCommand() *cobra.Command {
	var from string
	var flags policyFlags
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a database, empty or from an SQLite file",
		Example: "  skein db create shop\n" +
			"  skein db create shop --from shop.db\n" +
			"  skein db create log --replicas 3 --durability \"one received\"",
		Args: exact("NAME"),
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		patch, err := flags.patch(c)
		if err != nil {
			return err
		}
		return a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			if from != "" {
				return a.importFile(ctx, client, args[0], patch, from)
			}
			if err := client.CreateDatabase(ctx, args[0], patch); err != nil {
				return err
			}
			return a.done("Database %s is made.", args[0])
		})(c, args)
	}
	c.Flags().StringVar(&from, "from", "", "SQLite file whose content it gets")
	flags.add(c)
	return a.remote(a.withJSON(c))
}

// importFile uploads an SQLite file that nobody else is writing to.
func (a *app) importFile(ctx context.Context, client *adminclient.Client, name string, patch httpapi.PolicyPatch, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return base.Errorf(base.KindInvalid, "%w", err)
	}
	defer file.Close()
	before, err := checkDatabaseFile(file)
	if err != nil {
		return err
	}
	bar := a.progress(before.Size(), "Sending "+path)
	err = client.ImportDatabase(ctx, name, patch, before.Size(), func() (io.Reader, error) {
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		bar.Reset()
		// The client must not close the file: another node may be tried.
		return io.NopCloser(io.TeeReader(file, bar)), nil
	})
	_ = bar.Exit() // Only the display.
	if err != nil {
		return err
	}
	after, err := os.Stat(path)
	if err != nil || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) || leftover(path, "-wal") {
		return base.Errorf(base.KindConflict, "%s was changed while it was sent: the new database may hold a mixture", path).WithOutcome(base.Done).
			WithHint("Drop it (`skein db drop %s`), stop what writes to the file, and send it again.", name)
	}
	return a.done("Database %s is made from %s (%s).", name, path, bytesText(before.Size()))
}

func (a *app) dbListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "List databases",
		Example: "  skein db list\n  skein db list --json",
		Args:    exact(),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, _ []string) error {
			list, err := client.ListDatabases(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(list)
			}
			known := names{}
			if nodes, err := client.ListNodes(ctx); err == nil { // Without the right to list nodes ids are shown.
				known = nodeNames(nodes)
			}
			tab := table(a.out)
			fmt.Fprintln(tab, "DATABASE\tLEADER\tEPOCH\tNODES\tPOLICY")
			for _, d := range list {
				fmt.Fprintf(tab, "%s\t%s\t%d\t%s\t%s\n", d.Name, known.of(d.Leader), d.Epoch, known.all(d.Nodes), policyText(d.Policy))
			}
			return tab.Flush()
		}),
	}
	return a.remote(a.withJSON(c))
}

func (a *app) dbAlterCommand() *cobra.Command {
	var flags policyFlags
	c := &cobra.Command{
		Use:     "alter NAME",
		Short:   "Change a database's policy; what is not named stays",
		Example: "  skein db alter shop --durability \"all applied\" --degrade-after 5s",
		Args:    exact("NAME"),
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		patch, err := flags.patch(c)
		if err != nil {
			return err
		}
		if patch.Empty() {
			return usageError{fmt.Errorf("nothing to change: no flag names a part of the policy"), c}
		}
		return a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			policy, err := client.AlterDatabase(ctx, args[0], patch)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(policy)
			}
			return a.done("Database %s: %s.", args[0], policyText(policy))
		})(c, args)
	}
	flags.add(c)
	return a.remote(a.withJSON(c))
}

func (a *app) dbDropCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:     "drop NAME",
		Short:   "Remove a database and its files from all nodes",
		Example: "  skein snapshot shop shop-backup.db && skein db drop shop",
		Args:    exact("NAME"),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			if err := a.confirm(yes, fmt.Sprintf("Database %s and its files go from all nodes.", args[0]), args[0]); err != nil {
				return err
			}
			if err := client.DropDatabase(ctx, args[0]); err != nil {
				return err
			}
			return a.done("Database %s is dropped.", args[0])
		}),
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return a.remote(a.withJSON(c))
}

func (a *app) dbVerifyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "verify NAME",
		Short: "Compare the content of all replicas",
		Long: "verify has every replica hash its tables and compares. Hashes are comparable only at\n" +
			"the same position, so on a busy database the answer may be that nothing could be\n" +
			"compared. The exit status is 1 unless all replicas are equal.",
		Example: "  skein db verify shop",
		Args:    exact("NAME"),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			report, err := client.Hash(ctx, args[0])
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(report)
			} else {
				err = a.writeHashes(report)
			}
			if err != nil || report.Verdict == httpapi.VerdictEqual {
				return err
			}
			if report.Verdict == httpapi.VerdictDifferent {
				return base.Errorf(base.KindCorrupt, "replicas of %s differ at the same position", args[0])
			}
			return base.Errorf(base.KindStale, "not all replicas could be compared").WithHint("Try again when fewer writes run.")
		}),
	}
	return a.remote(a.withJSON(c))
}

func (a *app) writeHashes(report *httpapi.HashReport) error {
	tab := table(a.out)
	fmt.Fprintln(tab, "REPLICA\tPOSITION\tHASH")
	for _, h := range report.Replicas {
		hash := h.Hash
		if h.Error != "" {
			hash = "? " + h.Error
		}
		fmt.Fprintf(tab, "%s\t%s\t%s\n", h.NodeName, h.Position, hash)
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	if report.Verdict == httpapi.VerdictEqual {
		return a.done("All replicas are equal.")
	}
	return nil
}
