package base

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Level says how many followers must have a write before it is acknowledged.
// The leader's own log is always flushed first.
type Level string

// The durability levels.
const (
	Async  Level = "async"  // the leader's disk only
	One    Level = "one"    // and one follower
	Quorum Level = "quorum" // a majority of the replicas, the leader among them
	All    Level = "all"    // every replica
)

// When says at what point a follower counts.
type When string

// The points.
const (
	Received When = "received" // in the follower's memory
	Flushed  When = "flushed"  // on the follower's disk
	Applied  When = "applied"  // flushed and readable on the follower
)

// Durability is what a commit waits for. The zero value means the database's.
type Durability struct {
	Level Level `json:"level"`
	When  When  `json:"when"`
}

// String returns "quorum" or, when not flushed, "quorum applied".
func (d Durability) String() string {
	if d.When == Flushed || d.When == "" {
		return string(d.Level)
	}
	return string(d.Level) + " " + string(d.When)
}

// ParseDurability reads "LEVEL [received|flushed|applied]".
func ParseDurability(s string) (Durability, error) {
	f := strings.Fields(strings.ToLower(s))
	d := Durability{When: Flushed}
	if len(f) == 0 || len(f) > 2 {
		return d, Errorf(KindInvalid, "durability %q: want async, one, quorum or all, then received, flushed or applied", s)
	}
	switch d.Level = Level(f[0]); d.Level {
	case Async, One, Quorum, All:
	default:
		return d, Errorf(KindInvalid, "durability %q: unknown level %q; want async, one, quorum or all", s, f[0])
	}
	if len(f) == 2 {
		d.When = When(f[1])
	}
	switch d.When {
	case Received, Flushed, Applied:
		return d, nil
	}
	return d, Errorf(KindInvalid, "durability %q: unknown point %q; want received, flushed or applied", s, f[1])
}

// Followers returns how many followers must hold a write, of n replicas in all.
func (l Level) Followers(n int) int {
	switch l {
	case One:
		return min(1, n-1)
	case Quorum:
		return n / 2
	case All:
		return n - 1
	}
	return 0
}

// Policy is how one database is replicated. It is agreed by consensus.
type Policy struct {
	// Model is "leader"; "multi" and "quorum" are refused until they exist.
	Model string `json:"model"`
	// Replicas is on how many nodes the database lives; 0 means every node.
	Replicas int `json:"replicas"`
	// Durability of a transaction that does not ask for its own.
	Durability Durability `json:"durability"`
	// DegradeAfter is how long a commit waits for a follower that is gone
	// before the database goes on with those it has, visibly. 0 blocks.
	DegradeAfter time.Duration `json:"degrade_after"`
	// AllowLoss permits a failover that cannot be sure to have found every
	// acknowledged write. Async databases need it to fail over by themselves.
	AllowLoss bool `json:"allow_loss"`
	// MaxLag bounds that: a failover with loss by itself needs a replica that had
	// been level with the leader no longer than this before the leader was last
	// heard. Beyond it an operator has to decide. 0: any lag.
	MaxLag time.Duration `json:"max_lag,omitempty"`
	// Failover says who decides that another leads when the leader is lost. The
	// empty mode is automatic.
	Failover FailoverMode `json:"failover,omitempty"`
	// LogFormat is how transactions are written to the log and sent to
	// followers: one of LogFormats. It may be changed at any time.
	LogFormat string `json:"log_format"`
	// RetentionBytes of log are kept for followers that are away; a follower
	// further behind gets a snapshot. 0 means DefaultRetentionBytes.
	RetentionBytes int64 `json:"retention_bytes"`
	// TxIdleTimeout and TxTotalTimeout bound a transaction that holds the
	// writer. 0 means the defaults.
	TxIdleTimeout  time.Duration `json:"tx_idle_timeout"`
	TxTotalTimeout time.Duration `json:"tx_total_timeout"`
}

// FailoverMode says who decides that another replica leads.
type FailoverMode string

// The modes.
const (
	FailoverAutomatic FailoverMode = "automatic" // the cluster
	FailoverManual    FailoverMode = "manual"    // an operator: skein failover
)

// The log formats of a single-leader database.
const (
	FormatRow       = "row"       // the values of changed rows, before and after
	FormatStatement = "statement" // SQL with its parameters, executed again
	FormatWAL       = "wal"       // database pages
	FormatTrigger   = "trigger"   // what triggers have written down
)

// LogFormats are those that can be chosen in this version.
var LogFormats = []string{FormatRow, FormatStatement, FormatWAL, FormatTrigger}

func checkLogFormat(name string) error {
	if slices.Contains(LogFormats, name) {
		return nil
	}
	have := strings.Join(LogFormats, ", ")
	switch name {
	case FormatStatement, FormatWAL, FormatTrigger:
		return Errorf(KindUnsupported, "log format %q is not available in this version", name).WithHint("there is: %s", have)
	}
	return Errorf(KindInvalid, "log format %q: want one of %s", name, have)
}

// Defaults of Policy.
const (
	DefaultRetentionBytes = 256 << 20
	DefaultTxIdleTimeout  = 10 * time.Second
	DefaultTxTotalTimeout = 60 * time.Second
)

// DefaultPolicy is single-leader, on every node, quorum flushed, row format.
func DefaultPolicy() Policy {
	return Policy{
		Model: "leader", Durability: Durability{Level: Quorum, When: Flushed}, LogFormat: FormatRow,
		RetentionBytes: DefaultRetentionBytes, TxIdleTimeout: DefaultTxIdleTimeout, TxTotalTimeout: DefaultTxTotalTimeout,
	}
}

// Validate says what is wrong with p.
func (p Policy) Validate() error {
	if p.Model != "leader" {
		return Errorf(KindUnsupported, "model %q: only \"leader\" exists in this version", p.Model)
	}
	if err := checkLogFormat(p.LogFormat); err != nil {
		return err
	}
	if _, err := ParseDurability(fmt.Sprintf("%s %s", p.Durability.Level, p.Durability.When)); err != nil {
		return err
	}
	switch p.Failover {
	case "", FailoverAutomatic, FailoverManual:
	default:
		return Errorf(KindInvalid, "failover %q: want automatic or manual", p.Failover)
	}
	if p.MaxLag < 0 || p.Replicas < 0 || p.RetentionBytes < 0 || p.DegradeAfter < 0 || p.TxIdleTimeout < 0 || p.TxTotalTimeout < 0 {
		return Errorf(KindInvalid, "policy: sizes and times must not be negative")
	}
	return nil
}
