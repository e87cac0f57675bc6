package httpapi

import (
	"encoding/json"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/replica"
)

// Status is the whole cluster as one node could gather it.
type Status struct {
	Cluster   Cluster          `json:"cluster"`
	Nodes     []NodeStatus     `json:"nodes"`
	Databases []DatabaseStatus `json:"databases"`
	Alerts    []Alert          `json:"alerts"`
}

// Cluster is the control plane as one node sees it.
type Cluster struct {
	ID     string   `json:"id"`
	Leader string   `json:"leader"` // node id; "" when none is known
	Term   uint64   `json:"term"`
	Voters []string `json:"voters"` // node ids
}

// NodeState says how a node stands in the cluster's membership.
type NodeState string

// The node states.
const (
	NodeMember  NodeState = "member"
	NodeJoining NodeState = "joining"
	NodeDead    NodeState = "dead" // others make up for it until it is back
	NodeRemoved NodeState = "removed"
)

// NodeStatus is one node. The fields from PID on are known only of a node that
// is Reachable.
type NodeStatus struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	PGAddress   string    `json:"pg_address"`
	HTTPAddress string    `json:"http_address"`
	PeerAddress string    `json:"peer_address"`
	State       NodeState `json:"state"`
	Voter       bool      `json:"voter"`
	Reachable   bool      `json:"reachable"`
	Error       string    `json:"error,omitempty"` // why it is not reachable

	PID           int     `json:"pid,omitempty"`
	UptimeSeconds float64 `json:"uptime_seconds,omitempty"`
	Version       string  `json:"version,omitempty"`
	SQLite        string  `json:"sqlite,omitempty"`
	Dir           string  `json:"dir,omitempty"`
}

// DatabaseStatus is one database with all its replicas.
type DatabaseStatus struct {
	Name     string          `json:"name"`
	ID       base.DatabaseID `json:"id"`
	Policy   Policy          `json:"policy"`
	Epoch    base.Epoch      `json:"epoch"`
	Leader   string          `json:"leader"` // node id; "" when there is none
	Replicas []ReplicaStatus `json:"replicas"`
	// Election is what goes on when the leader is lost; nil when nothing does.
	Election *Election `json:"election,omitempty"`
	// Lossy says that acknowledged writes after LossyFrom may have been lost when
	// this epoch began.
	Lossy     bool   `json:"lossy,omitempty"`
	LossyFrom string `json:"lossy_from,omitempty"` // position "epoch/seq"
}

// Election is a database's next leader being looked for.
type Election struct {
	Database base.DatabaseID `json:"database"`
	State    string          `json:"state"` // "probing", "asking", "electing", "switching over", "waiting for an operator"
	Reason   string          `json:"reason"`
	Have     int             `json:"have"` // answers of those that rule out a loss
	Need     int             `json:"need"`
	Missing  []string        `json:"missing"` // node ids
	// SinceSeconds is how long it has gone on.
	SinceSeconds float64    `json:"since_seconds"`
	Standings    []Standing `json:"standings"`
}

// WaitsForOperator says that nothing happens before skein failover.
func (e *Election) WaitsForOperator() bool { return e != nil && e.State == "waiting for an operator" }

// Standing is how a replica stands that may lead next.
type Standing struct {
	Node     string `json:"node"`     // node id
	Position string `json:"position"` // "epoch/seq", on its disk
	// LeaderEnd is where the leader's log ended when the replica last heard it,
	// SilenceSeconds ago; Lacks is how many row changes of that it has not got,
	// and BehindSeconds for how long it had lacked some by then. What the leader
	// has written since nobody here can know.
	LeaderEnd      base.Seq `json:"leader_end"`
	Lacks          int64    `json:"lacks"`
	SilenceSeconds float64  `json:"silence_seconds"`
	BehindSeconds  float64  `json:"behind_seconds"`
}

// ReplicaStatus is one replica. When Known is false its node did not answer
// and every field below Known is without meaning.
type ReplicaStatus struct {
	Node     string `json:"node"` // node id
	NodeName string `json:"node_name"`
	Known    bool   `json:"known"`

	Role           replica.Role `json:"role,omitempty"`
	Epoch          base.Epoch   `json:"epoch"`
	Leader         string       `json:"leader"` // whom it follows
	LeaseLive      bool         `json:"lease_live"`
	Appended       string       `json:"appended"` // position "epoch/seq"
	Applied        string       `json:"applied"`  // position "epoch/seq"
	AppliedSeq     base.Seq     `json:"applied_seq"`
	Flushed        base.Seq     `json:"flushed"`
	Safe           base.Seq     `json:"safe"`
	LagSeqs        int64        `json:"lag_seqs"` // row changes behind the leader; -1: unknown
	AgeSeconds     float64      `json:"age_seconds"`
	Degraded       bool         `json:"degraded"`
	LogStart       base.Seq     `json:"log_start"`
	LogBytes       int64        `json:"log_bytes"`
	FileBytes      int64        `json:"file_bytes"`
	CopiedBytes    int64        `json:"copied_bytes"`
	CopyTotalBytes int64        `json:"copy_total_bytes"`
	Orphans        int64        `json:"orphans"`
	OrphansAcked   int64        `json:"orphans_acknowledged"` // of them
	// Unproven: it was copied and has not come level since, and so has no say in an
	// election.
	Unproven bool `json:"unproven,omitempty"`
	// Differences counts the entries whose statements did something else here than
	// on the leader, since the replica was opened; Difference tells of the last.
	Differences int64            `json:"differences,omitempty"`
	Difference  string           `json:"difference,omitempty"`
	Error       string           `json:"error,omitempty"`
	Path        string           `json:"path"`
	Followers   []FollowerStatus `json:"followers,omitempty"`
	Consumers   []ConsumerStatus `json:"consumers,omitempty"`
}

// FollowerStatus is a follower as its leader sees it.
type FollowerStatus struct {
	Node       string   `json:"node"`
	Attached   bool     `json:"attached"`
	Received   base.Seq `json:"received"`
	Flushed    base.Seq `json:"flushed"`
	Applied    base.Seq `json:"applied"`
	LagBytes   int64    `json:"lag_bytes"`
	LagSeconds float64  `json:"lag_seconds"`
	Forecast
}

// ConsumerStatus is who reads a stream of changes from a replica.
type ConsumerStatus struct {
	Name string   `json:"name"`
	At   base.Seq `json:"at"` // up to where the log was read for it
	Forecast
}

// Forecast says when the log that somebody needs would be gone.
type Forecast struct {
	BehindBytes int64 `json:"behind_bytes"` // of log yet to be read, in whole segments
	RoomBytes   int64 `json:"room_bytes"`   // that may still be written before
	// CutOffSeconds is when, if nothing more is read and writes go on as they
	// do; 0: not to be foreseen.
	CutOffSeconds float64 `json:"cut_off_seconds"`
	CutOff        bool    `json:"cut_off"` // what is needed next is gone
}

func forecast(f replica.Forecast) Forecast {
	return Forecast{BehindBytes: f.BehindBytes, RoomBytes: f.RoomBytes, CutOffSeconds: f.CutOffIn.Seconds(), CutOff: f.CutOff}
}

// NewReplicaStatus translates what a replica says of itself. LagSeqs is 0 on a
// leader and unknown otherwise, until SetLag is called.
func NewReplicaStatus(node base.NodeID, name string, s replica.Status) ReplicaStatus {
	r := ReplicaStatus{
		Node: IDString(node), NodeName: name, Known: true,
		Role: s.Role, Epoch: s.Epoch, Leader: IDString(s.Leader), LeaseLive: s.LeaseLive,
		Appended: s.Appended.String(), Applied: s.Applied.String(), AppliedSeq: s.Applied.Seq,
		Flushed: s.Flushed, Safe: s.Safe, LagSeqs: -1, AgeSeconds: s.Age.Seconds(), Degraded: s.Degraded,
		LogStart: s.LogStart, LogBytes: s.LogBytes, FileBytes: s.FileBytes,
		CopiedBytes: s.Copied, CopyTotalBytes: s.CopyTotal, Orphans: s.Orphans, OrphansAcked: s.OrphansAcknowledged, Unproven: s.Unproven, Error: s.Error,
		Differences: s.Differences, Difference: s.Difference, Path: s.Path,
	}
	if s.Role == replica.RoleLeader {
		r.LagSeqs = 0
	}
	for _, f := range s.Followers {
		r.Followers = append(r.Followers, FollowerStatus{
			Node: IDString(f.Node), Attached: f.Attached, Received: f.Received, Flushed: f.Flushed,
			Applied: f.Applied, LagBytes: f.LagBytes, LagSeconds: f.Lag.Seconds(), Forecast: forecast(f.Forecast),
		})
	}
	for _, c := range s.Consumers {
		r.Consumers = append(r.Consumers, ConsumerStatus{Name: c.Name, At: c.At, Forecast: forecast(c.Forecast)})
	}
	return r
}

// SetLag fills LagSeqs of every known replica from the leader's position. The
// replicas were asked one after another, so a lag is never below zero but may
// be older than the moment it is shown.
func (d *DatabaseStatus) SetLag() {
	var end base.Seq
	found := false
	for _, r := range d.Replicas {
		if r.Known && r.Role == replica.RoleLeader && r.Node == d.Leader {
			end, found = r.AppliedSeq, true
		}
	}
	for i := range d.Replicas {
		r := &d.Replicas[i]
		switch {
		case !r.Known || !found:
			r.LagSeqs = -1
		default:
			r.LagSeqs = max(0, int64(end)-int64(r.AppliedSeq))
		}
	}
}

// Alert is something that a person should know.
type Alert struct {
	Severity Severity `json:"severity"`
	// Kind is a short fixed word for programs.
	Kind     AlertKind `json:"kind"`
	Database string    `json:"database,omitempty"`
	Node     string    `json:"node,omitempty"` // node id
	Message  string    `json:"message"`
}

// Severity of an alert.
type Severity string

// The severities.
const (
	Warning  Severity = "warning"  // works, with less safety than asked
	Critical Severity = "critical" // something does not work
)

// AlertKind names an alert.
type AlertKind string

// The alert kinds.
const (
	AlertDegraded        AlertKind = "degraded"
	AlertNoLeader        AlertKind = "no_leader"
	AlertReplicaStopped  AlertKind = "replica_stopped"
	AlertNodeUnreachable AlertKind = "node_unreachable"
	AlertNodeFailed      AlertKind = "node_failed" // it answers, and can't serve until someone acts
	AlertNoControlLeader AlertKind = "no_control_leader"
	AlertFailoverWaits   AlertKind = "failover_waits"
	AlertLoss            AlertKind = "loss"
	AlertOrphans         AlertKind = "orphans"
	AlertCopying         AlertKind = "copying"
	AlertDifference      AlertKind = "difference"   // a statement did something else on a follower
	AlertFewReplicas     AlertKind = "few_replicas" // fewer nodes than the policy asks replicas
)

// LocalStatus is what one node knows without asking others.
type LocalStatus struct {
	Cluster  Cluster        `json:"cluster"`
	Node     NodeStatus     `json:"node"`
	Ready    Readiness      `json:"ready"`
	Replicas []LocalReplica `json:"replicas"`
	// Elections are those that this node runs.
	Elections []Election `json:"elections,omitempty"`
}

// LocalReplica is a replica on the node that answers.
type LocalReplica struct {
	Database   string          `json:"database"`
	DatabaseID base.DatabaseID `json:"database_id"`
	ReplicaStatus
}

// Readiness says whether a node serves clients and, if not, why.
type Readiness struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons"` // empty when ready
}

// Database is a database as the control plane knows it.
type Database struct {
	Name   string          `json:"name"`
	ID     base.DatabaseID `json:"id"`
	Policy Policy          `json:"policy"`
	Epoch  base.Epoch      `json:"epoch"`
	Leader string          `json:"leader"` // node id; "" when there is none
	Nodes  []string        `json:"nodes"`  // ids of the nodes that hold a replica
}

// Right is what a user may do in a database; each includes those before it.
type Right string

// The rights, rising.
const (
	RightNone  Right = ""
	RightRead  Right = "read"
	RightWrite Right = "write"
	RightAdmin Right = "admin"
)

var rightOrder = map[Right]int{RightNone: 0, RightRead: 1, RightWrite: 2, RightAdmin: 3}

// Includes says whether r allows what needs q.
func (r Right) Includes(q Right) bool { return rightOrder[r] >= rightOrder[q] }

// ParseRight reads read, write or admin.
func ParseRight(s string) (Right, error) {
	switch r := Right(s); r {
	case RightRead, RightWrite, RightAdmin:
		return r, nil
	}
	return "", base.Errorf(base.KindInvalid, "right %q: want read, write or admin", s)
}

// User is an account and what it may do.
type User struct {
	Name   string  `json:"name"`
	Grants []Grant `json:"grants"`
}

// Grant is a right of a user on a database; "*" is every database.
type Grant struct {
	Database string `json:"database"`
	Right    Right  `json:"right"`
}

// Orphan is one row change that was acknowledged or in flight at a leader that
// lost its leadership, and undone when it came back.
type Orphan struct {
	Time time.Time `json:"time"` // when the old leader made it, by its clock; acknowledged at once if at all
	// Acknowledged: "yes", "no", or "unknown" after a power cut.
	Acknowledged string         `json:"acknowledged"`
	Node         string         `json:"node"` // id of the node that undid it
	Epoch        base.Epoch     `json:"epoch"`
	Seq          base.Seq       `json:"seq"`
	Table        string         `json:"table"`
	Op           string         `json:"op"` // "insert", "update", "delete", "ddl"
	Key          changefeed.Row `json:"key"`
	Old          changefeed.Row `json:"old"` // null for an insert
	New          changefeed.Row `json:"new"` // null for a delete
}

// OrphanChoice names orphaned writes: one, or all of a node, or all.
type OrphanChoice struct {
	Node  string     `json:"node"`  // node id; "": all nodes
	Epoch base.Epoch `json:"epoch"` // 0: all
	Seq   base.Seq   `json:"seq"`   // 0: all of the epoch
}

// OrphanOutcome is what became of one.
type OrphanOutcome struct {
	Node    string     `json:"node"`
	Epoch   base.Epoch `json:"epoch"`
	Seq     base.Seq   `json:"seq"`
	Outcome string     `json:"outcome"` // "replayed", "discarded", "conflict"; what conflicts stays listed
	Message string     `json:"message,omitempty"`
}

// ReplicaHash is the hash of a replica's user tables at a position.
type ReplicaHash struct {
	Node     string `json:"node"`
	NodeName string `json:"node_name"`
	Position string `json:"position"` // "epoch/seq"
	Hash     string `json:"hash"`
	Error    string `json:"error,omitempty"` // why there is no hash
}

// HashReport is the answer to a verification.
type HashReport struct {
	Database string        `json:"database"`
	Verdict  Verdict       `json:"verdict"`
	Replicas []ReplicaHash `json:"replicas"`
}

// Verdict compares the hashes of a database's replicas.
type Verdict string

// The verdicts.
const (
	VerdictEqual      Verdict = "equal"      // all replicas answered, at one position, with one hash
	VerdictDifferent  Verdict = "different"  // two replicas at one position have different hashes
	VerdictIncomplete Verdict = "incomplete" // no difference seen, but not all could be compared
)

// Compare reaches a verdict. Hashes at different positions prove nothing.
func Compare(hashes []ReplicaHash) Verdict {
	at := map[string]string{}
	complete := true
	for _, h := range hashes {
		if h.Error != "" {
			complete = false
			continue
		}
		if other, ok := at[h.Position]; ok && other != h.Hash {
			return VerdictDifferent
		}
		at[h.Position] = h.Hash
	}
	if !complete || len(at) != 1 {
		return VerdictIncomplete
	}
	return VerdictEqual
}

// Error is the body of every answer that is not a success.
type Error struct {
	Kind     base.Kind    `json:"kind"`
	Message  string       `json:"message"`
	Outcome  base.Outcome `json:"outcome"`
	Hint     string       `json:"hint,omitempty"`
	SQLState string       `json:"sqlstate,omitempty"`
	Leader   string       `json:"leader,omitempty"` // node id, for not_leader
	// Operation names the write whose outcome is indeterminate, to ask with.
	Operation string `json:"operation,omitempty"`
}

// IDString is id as text, "" for zero.
func IDString(id base.NodeID) string {
	if id == 0 {
		return ""
	}
	return id.String()
}

// Policy is base.Policy with the JSON form of this API: durations and
// durability are strings ("10s", "quorum applied"), as in PolicyPatch.
type Policy base.Policy

// MarshalJSON writes all fields.
func (p Policy) MarshalJSON() ([]byte, error) { return json.Marshal(PatchOf(base.Policy(p))) }

// UnmarshalJSON reads the fields over those of the default policy.
func (p *Policy) UnmarshalJSON(data []byte) error {
	var patch PolicyPatch
	if err := json.Unmarshal(data, &patch); err != nil {
		return err
	}
	full, err := patch.Apply(base.DefaultPolicy())
	if err != nil {
		return err
	}
	*p = Policy(full)
	return nil
}
