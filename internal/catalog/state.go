package catalog

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
)

// Limits of the state, so that a snapshot of it always fits one message.
const (
	RecentCommands = 1024 // how many command ids are remembered
	MaxNodes       = 256  // nodes that have not left
	MaxDatabases   = 1024 // databases that are not dropped
	MaxUsers       = 1024
	MaxGrants      = 64 // of one user
	MaxSettings    = 256
	maxLeft        = 256 // nodes that left and are still listed
	maxDropped     = 128 // databases that were dropped and are still listed
	maxText        = 255 // bytes of an address or reason
	maxSetting     = 4096
)

// StateVersion is written into an encoded state.
const StateVersion = 1

// NodeState says where a node stands in the cluster.
type NodeState string

// The states of a node. Only active nodes get replicas.
const (
	NodeJoining  NodeState = "joining" // added, still fetching the catalog
	NodeIsActive NodeState = "active"
	NodeLeft     NodeState = "left" // gone for good; the id is never used again
	NodeDead     NodeState = "dead" // away too long; its replicas are made up for, it may return
)

// Node is a member of the cluster.
type Node struct {
	ID          base.NodeID `json:"id"`
	Name        string      `json:"name"`
	PeerAddress string      `json:"peer_address"`
	PgAddress   string      `json:"pg_address,omitempty"`
	HTTPAddress string      `json:"http_address,omitempty"`
	State       NodeState   `json:"state"`
	// Voter says whether the node votes in the control group; others follow.
	Voter bool `json:"voter"`
	// JoinedAt is the log index at which the node was added.
	JoinedAt uint64 `json:"joined_at"`
}

// Election is how a database came to its leader.
type Election struct {
	Index  uint64        `json:"index"`  // of the log
	Epoch  base.Epoch    `json:"epoch"`  // the one that it began
	Leader base.NodeID   `json:"leader"` // who was elected
	From   base.Position `json:"from"`   // where the leader's log ended
	Reason string        `json:"reason"`
	Lossy  bool          `json:"lossy"` // acknowledged writes may be missing
}

// Database is a replicated database. Its slices are sorted and must not be
// changed.
type Database struct {
	ID     base.DatabaseID `json:"id"`
	Name   string          `json:"name"`
	Policy base.Policy     `json:"policy"`
	// Replicas are the nodes on which the database lives.
	Replicas []base.NodeID `json:"replicas"`
	// Copying are those of them that were added to a database with a history
	// and have not been counted since. They receive, but they cannot lead.
	Copying []base.NodeID `json:"copying,omitempty"`
	Epoch   base.Epoch    `json:"epoch"`
	// Leader is 0 before the first election, and after its node was removed.
	Leader       base.NodeID `json:"leader"`
	LastElection Election    `json:"last_election"`
	// Counting is what elections rely on: who holds every acknowledged write.
	// Package leadership says why it may differ from Replicas and Policy; only
	// the leader of Epoch has it changed.
	Counting  leadership.Counting `json:"counting"`
	CreatedAt uint64              `json:"created_at"`
	// Dropped databases stay listed for a while. One that is not listed and
	// whose id is below State.NextDatabase has been dropped as well.
	Dropped bool `json:"dropped,omitempty"`
}

// HasReplica says whether the database lives on a node.
func (d Database) HasReplica(n base.NodeID) bool { return slices.Contains(d.Replicas, n) }

// IsCopying says whether a node's replica is still being filled.
func (d Database) IsCopying(n base.NodeID) bool { return slices.Contains(d.Copying, n) }

// Full returns the replicas that have had a full copy at some time. Counting
// says which of them are sure to hold everything now.
func (d Database) Full() []base.NodeID {
	return without(d.Replicas, d.IsCopying)
}

// secure says whether a replica is left that is sure to hold everything.
func (d Database) secure() bool {
	return slices.ContainsFunc(d.Full(), d.Counting.Has)
}

func without(ids []base.NodeID, drop func(base.NodeID) bool) []base.NodeID {
	return slices.DeleteFunc(slices.Clone(ids), drop)
}

// Right is what a user may do with a database.
type Right string

// The rights; each includes those before it.
const (
	RightNone  Right = ""
	RightRead  Right = "read"
	RightWrite Right = "write"
	RightAdmin Right = "admin"
)

var rightOrder = []Right{RightNone, RightRead, RightWrite, RightAdmin}

// Includes says whether r permits what q does.
func (r Right) Includes(q Right) bool {
	return slices.Index(rightOrder, r) >= slices.Index(rightOrder, q)
}

// AnyDatabase stands for all databases in a grant.
const AnyDatabase = "*"

// Granted is a user's right to one database, or to all by AnyDatabase.
type Granted struct {
	Database string `json:"database"`
	Right    Right  `json:"right"`
}

// User may log in. Its grants are sorted by database and must not be changed.
type User struct {
	Name string `json:"name"`
	// Credential is "SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey".
	Credential string    `json:"credential"`
	Grants     []Granted `json:"grants,omitempty"`
}

// Right returns the most that the user may do with a database.
func (u User) Right(database string) Right {
	best := RightNone
	for _, g := range u.Grants {
		if (g.Database == database || g.Database == AnyDatabase) && !best.Includes(g.Right) {
			best = g.Right
		}
	}
	return best
}

// Setting is a named value that all nodes agree on.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// recent is one remembered command. The list is copied with every command, so
// its elements are small; results never change.
type recent struct {
	ID     ID      `json:"id"`
	Result *Result `json:"result"`
}

// State is the catalog at one index of the log. It never changes; Apply makes
// a new one. Slices that it returns are shared: do not change them.
type State struct {
	clusterID    uint64
	applied      uint64
	nextDatabase base.DatabaseID
	nodes        []Node     // by id
	databases    []Database // by id
	users        []User     // by name
	settings     []Setting  // by name
	webhooks     []Webhook  // by database and name
	recent       []recent   // oldest first
}

// New returns the state before the first command.
func New() *State { return &State{nextDatabase: 1} }

// ClusterID names the cluster; 0 before BootstrapCluster.
func (s *State) ClusterID() uint64 { return s.clusterID }

// Applied is the index of the last log entry that the state contains.
func (s *State) Applied() uint64 { return s.applied }

// NextDatabase is the id that the next database gets.
func (s *State) NextDatabase() base.DatabaseID { return s.nextDatabase }

// Nodes returns all nodes by id, those that left included.
func (s *State) Nodes() []Node { return s.nodes }

// Databases returns all databases by id, dropped ones included.
func (s *State) Databases() []Database { return s.databases }

// Users returns all users by name.
func (s *State) Users() []User { return s.users }

// Settings returns all settings by name.
func (s *State) Settings() []Setting { return s.settings }

// Node finds a node.
func (s *State) Node(id base.NodeID) (Node, bool) {
	if i := s.nodeAt(id); i >= 0 {
		return s.nodes[i], true
	}
	return Node{}, false
}

// NodeByName finds a node that has not left.
func (s *State) NodeByName(name string) (Node, bool) {
	for _, n := range s.nodes {
		if n.Name == name && n.State != NodeLeft {
			return n, true
		}
	}
	return Node{}, false
}

// Database finds a database, dropped ones included.
func (s *State) Database(id base.DatabaseID) (Database, bool) {
	if i := s.databaseAt(id); i >= 0 {
		return s.databases[i], true
	}
	return Database{}, false
}

// DatabaseByName finds a database that is not dropped.
func (s *State) DatabaseByName(name string) (Database, bool) {
	for _, d := range s.databases {
		if d.Name == name && !d.Dropped {
			return d, true
		}
	}
	return Database{}, false
}

// User finds a user.
func (s *State) User(name string) (User, bool) {
	if i := s.userAt(name); i >= 0 {
		return s.users[i], true
	}
	return User{}, false
}

// Setting returns a setting's value, or "".
func (s *State) Setting(name string) string {
	for _, v := range s.settings {
		if v.Name == name {
			return v.Value
		}
	}
	return ""
}

// Recent returns the result of a command that was applied not long ago.
func (s *State) Recent(id ID) (Result, bool) {
	for i := len(s.recent) - 1; i >= 0; i-- {
		if s.recent[i].ID == id {
			return *s.recent[i].Result, true
		}
	}
	return Result{}, false
}

// Voters returns the nodes that vote in the control group, by id.
func (s *State) Voters() []base.NodeID {
	var ids []base.NodeID
	for _, n := range s.nodes {
		if n.Voter {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

func (s *State) nodeAt(id base.NodeID) int {
	return slices.IndexFunc(s.nodes, func(n Node) bool { return n.ID == id })
}

func (s *State) databaseAt(id base.DatabaseID) int {
	return slices.IndexFunc(s.databases, func(d Database) bool { return d.ID == id })
}

func (s *State) userAt(name string) int {
	return slices.IndexFunc(s.users, func(u User) bool { return u.Name == name })
}

// Apply returns the state after a command at an index of the log, and the
// command's result. A refused command changes nothing but the applied index
// and the memory of its id.
func (s *State) Apply(index uint64, c Command) (*State, Result) {
	if r, ok := s.Recent(c.ID); ok {
		return s.Advance(index), r
	}
	d := s.draft(index)
	if refusal := c.Action.apply(d); refusal != nil {
		d = s.draft(index)
		d.result = Result{Action: c.Action.verb(), Kind: refusal.Kind, Message: refusal.Message, Hint: refusal.Hint}
	}
	d.result.Index = index
	d.remember(c.ID)
	return &d.State, d.result
}

// Advance returns the state at an index whose entry carries no command.
func (s *State) Advance(index uint64) *State {
	n := *s
	n.applied = index
	return &n
}

// draft is a state in the making: its own copy of every list, whose elements'
// own lists are replaced and never written to.
type draft struct {
	State
	result Result
}

func (s *State) draft(index uint64) *draft {
	d := &draft{State: *s.Advance(index)}
	d.nodes = slices.Clone(s.nodes)
	d.databases = slices.Clone(s.databases)
	d.users = slices.Clone(s.users)
	d.settings = slices.Clone(s.settings)
	return d
}

func (d *draft) remember(id ID) {
	from := max(0, len(d.recent)+1-RecentCommands)
	next := make([]recent, 0, len(d.recent)-from+1)
	next = append(next, d.recent[from:]...)
	result := d.result
	d.recent = append(next, recent{id, &result})
}

type stateJSON struct {
	Version      int             `json:"v"`
	ClusterID    uint64          `json:"cluster_id"`
	Applied      uint64          `json:"applied"`
	NextDatabase base.DatabaseID `json:"next_database"`
	Nodes        []Node          `json:"nodes"`
	Databases    []Database      `json:"databases"`
	Users        []User          `json:"users"`
	Settings     []Setting       `json:"settings"`
	Webhooks     []Webhook       `json:"webhooks,omitempty"`
	Recent       []recent        `json:"recent"`
}

// Encode returns the state's bytes; equal states have equal bytes.
func (s *State) Encode() []byte {
	b, err := json.Marshal(stateJSON{
		StateVersion, s.clusterID, s.applied, s.nextDatabase,
		s.nodes, s.databases, s.users, s.settings, s.webhooks, s.recent,
	})
	if err != nil {
		panic(fmt.Sprintf("encode catalog: %v", err)) // Only strings, integers and lists of them.
	}
	return b
}

// DecodeState reads what Encode wrote. Another version is KindUnsupported;
// other bytes are KindCorrupt.
func DecodeState(b []byte) (*State, error) {
	var j stateJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return nil, base.Errorf(base.KindCorrupt, "decode catalog: %w", err)
	}
	if j.Version != StateVersion {
		return nil, base.Errorf(base.KindUnsupported, "catalog version %d: this program knows version %d", j.Version, StateVersion).
			WithHint("upgrade this node")
	}
	s := &State{j.ClusterID, j.Applied, j.NextDatabase, j.Nodes, j.Databases, j.Users, j.Settings, j.Webhooks, j.Recent}
	if err := s.Check(); err != nil {
		return nil, base.Errorf(base.KindCorrupt, "decode catalog: %w", err)
	}
	return s, nil
}
