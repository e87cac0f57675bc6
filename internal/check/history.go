package check

import (
	"math"
	"slices"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// Never is the return of an operation that did not return.
const Never = time.Duration(math.MaxInt64)

// History is one run. Instants are measured from its start, by one clock that
// no fault touches.
type History struct {
	Ops    []Op // by ID, which is the index
	Events []Event
	Claims []Claim
	Copies []Copy
	Losses []Loss
	// Streams are what subscribers to the changes asked for, and Deliveries what
	// they took, in that order.
	Streams    []Stream
	Deliveries []Delivery
}

// Op is one operation of a client: a statement, or a whole transaction.
type Op struct {
	// ID is the operation's index in its history.
	ID int
	// Client has one operation at a time. One that has an operation whose
	// end it did not wait for goes on under another name.
	Client string
	// Session is whose guarantees the operation is under: the operations of a
	// connection, or of several that hand on a token. Empty is the client.
	Session string
	// Node is who was asked.
	Node string
	// Leader is who accepted the write, when it is known.
	Leader string
	// Level of its reads: any, bounded(age), session or leader; empty is session.
	Level string
	// Durability that its writes asked for; empty is quorum.
	Durability base.Level
	// Final marks a read of what one replica holds when all is over: of every
	// key, after every fault is healed and the replicas are level.
	Final bool

	Invoke, Return time.Duration
	// Outcome is what the client was told. An operation that has not returned
	// is Indeterminate.
	Outcome base.Outcome
	// Acts are what it did, in order. A whole Op commits or does not.
	Acts []Act
	// Position that it wrote, or whose snapshot it read; zero if unknown.
	Position base.Position
	// Token of its session after it; empty if unknown.
	Token string
	// Error that the client got.
	Error string
}

// ActKind is what an act does.
type ActKind string

// The acts. A key is either a list (append, read) or a register (write, cas,
// get). No value is appended twice to a key.
const (
	Append ActKind = "append" // adds a value to the end of a list
	Read   ActKind = "read"   // reads a list
	Write  ActKind = "write"  // sets a register
	CAS    ActKind = "cas"    // sets a register if it holds Expect; an Op that is done has set it
	Get    ActKind = "get"    // reads a register
)

// Act is one step of an operation.
type Act struct {
	Kind   ActKind
	Key    string
	Value  int64 // append, write, cas
	Expect int64 // cas
	// Known says that the result of a read or a get arrived.
	Known bool
	// Saw is what a read saw, in order; of a get the one value, or none.
	Saw []int64
}

// Event is something that was done to the cluster, or that it did: a fault, a
// healing, a change of leader. Until is From for an instant.
type Event struct {
	From, Until time.Duration
	Kind        string // one word: kill, pause, partition, leader, ...
	Node        string // whom it befell; may be empty
	Text        string
}

// Claim is evidence that a node acted as the leader of an epoch.
type Claim struct {
	Node  string
	Epoch base.Epoch
	At    time.Duration
	Text  string // how it was seen
}

// Copy is the content of a replica at a position.
type Copy struct {
	Node     string
	Position base.Position
	Hash     string
	At       time.Duration
	Final    bool // the run is over: all final copies must be level
}

// Loss is what the system itself reported as undone by a failover.
type Loss struct {
	Node string // whose tail it was
	At   time.Duration
	// Acknowledged is how many acknowledged writes it says were among them;
	// -1 if it does not say.
	Acknowledged int
	// Undone are the appends that were acknowledged, or may have been.
	Undone []Undone
	// Unnamed says that it lists more, which it cannot name: pages of which
	// nobody knows any more what they held.
	Unnamed bool
}

// Undone is a write that a failover undid.
type Undone struct {
	Act Act
	// Position it had; zero if unknown. The same write may have been done again
	// at another, under its operation id, when its answer was lost.
	Position base.Position
}

// Writes says whether an act changes something.
func (a Act) Writes() bool { return a.Kind == Append || a.Kind == Write || a.Kind == CAS }

// Writes says whether the operation changes something.
func (o *Op) Writes() bool { return slices.ContainsFunc(o.Acts, Act.Writes) }

// reads says whether the operation reads a list.
func (o *Op) reads() bool {
	return slices.ContainsFunc(o.Acts, func(a Act) bool { return a.Kind == Read })
}

// Done says whether the client was told that the operation was done.
func (o *Op) Done() bool { return o.Outcome == base.Done }

// session is whose guarantees the operation is under.
func (o *Op) session() string {
	if o.Session != "" {
		return o.Session
	}
	return o.Client
}

// current says whether an operation must see all that had returned before it
// began: writes run at the leader on its newest state.
func (o *Op) current() bool { return o.Level == "leader" || o.Writes() }

// Invoke records the start of an operation and returns its ID.
func (h *History) Invoke(o Op) int {
	o.ID, o.Return, o.Outcome = len(h.Ops), Never, base.Indeterminate
	h.Ops = append(h.Ops, o)
	return o.ID
}

// Result is what an operation came to.
type Result struct {
	Outcome  base.Outcome
	Acts     []Act // with what the reads saw; nil leaves them as invoked
	Position base.Position
	Leader   string
	Token    string
	Error    string
}

// Return records the end of an operation.
func (h *History) Return(id int, at time.Duration, r Result) {
	o := &h.Ops[id]
	o.Return, o.Outcome, o.Position, o.Token, o.Error = at, r.Outcome, r.Position, r.Token, r.Error
	if r.Outcome == "" {
		o.Outcome = base.NotDone // as in base.Error
	}
	if r.Acts != nil {
		o.Acts = r.Acts
	}
	if r.Leader != "" {
		o.Leader = r.Leader
	}
}

// Final records what a replica holds when all is over: the lists by key. Keys
// that are nil were read and are empty.
func (h *History) Final(node string, at time.Duration, p base.Position, lists map[string][]int64) {
	o := Op{Client: "final", Session: "final " + node, Node: node, Level: "any", Final: true, Invoke: at}
	for _, key := range sortedKeys(lists) {
		o.Acts = append(o.Acts, Act{Kind: Read, Key: key, Known: true, Saw: lists[key]})
	}
	h.Return(h.Invoke(o), at, Result{Outcome: base.Done, Position: p})
}
