package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/leadership"
	"github.com/skeindb/skein/internal/transport"
)

// intakeMethod asks a node to answer once it has taken in what was agreed on.
const intakeMethod = "node.intake"

const (
	// intakeWait bounds how long a node is waited for that does not answer.
	intakeWait = time.Second
	// policyWait bounds how long a leader is waited for that can't do as its
	// policy says yet; it then has time left to say so.
	policyWait = intakeWait * 3 / 4
)

// intakeRequest names what is to be taken in: the control plane's log up to
// Index, and the policy of Database, if there is one, by its leader.
type intakeRequest struct {
	Index    uint64          `json:"index"`
	Database base.DatabaseID `json:"database,omitempty"`
}

// intakeReply says in Unsettled, of the node that leads the database, why writes
// are not acknowledged by its policy alone yet.
type intakeReply struct {
	Unsettled string `json:"unsettled,omitempty"`
}

// intake is how far of the control plane's log this node's parts have been told.
type intake struct {
	mu    sync.Mutex // guards all below
	index uint64
	risen chan struct{} // closed when index rises
}

func (t *intake) init() { t.risen = make(chan struct{}) }

func (t *intake) raise(index uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if index > t.index {
		t.index = index
		close(t.risen)
		t.risen = make(chan struct{})
	}
}

func (t *intake) get() (uint64, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.index, t.risen
}

func (t *intake) await(ctx context.Context, index uint64) error {
	for {
		at, risen := t.get()
		if at >= index {
			return nil
		}
		select {
		case <-risen:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// serveIntake answers when this node has taken in what the request names.
func (n *Node) serveIntake(ctx context.Context, _ base.NodeID, request []byte) ([]byte, error) {
	var q intakeRequest
	if err := json.Unmarshal(request, &q); err != nil {
		return nil, base.Errorf(base.KindInvalid, "bad request to take in what was agreed on")
	}
	ctx, cancel := n.env.Clock.WithTimeout(ctx, policyWait, base.Errorf(base.KindTimeout, "this node has not heard of it in time"))
	defer cancel()
	if err := n.intake.await(ctx, q.Index); err != nil {
		return nil, err
	}
	return json.Marshal(intakeReply{Unsettled: n.unsettled(ctx, q.Database)})
}

// unsettled waits until this node acts by the policy of a database, if it leads
// that, and says what is in the way if it does not come to it.
func (n *Node) unsettled(ctx context.Context, id base.DatabaseID) string {
	db, ok := n.control.State().Database(id)
	if !ok || db.Dropped || db.Leader != n.identity.Node {
		return ""
	}
	idle := fmt.Sprintf("%s, which leads %s, does not serve just now", n.Name(), db.Name)
	r, err := n.replicaFor(id)
	if err != nil {
		return idle
	}
	s, leads := r.AwaitPolicy(ctx)
	switch {
	case leads && !s.Counting.Same(s.Wanted):
		return n.awaitedBy(db, s)
	case !leads && ctx.Err() != nil:
		return idle
	}
	return ""
}

// awaitedBy says how a leader acknowledges that waits for followers before it
// can do as its policy asks.
func (n *Node) awaitedBy(db catalog.Database, s leadership.Status) string {
	copies := func(c leadership.Counting) string { return fmt.Sprintf("%d of %d", c.Copies, len(c.Replicas)) }
	text := fmt.Sprintf("%s, which leads %s, still acknowledges writes that %s replicas have, and not yet %s", n.Name(), db.Name, copies(s.Counting), copies(s.Wanted))
	if s.Joining {
		text = fmt.Sprintf("%s, which leads %s, acknowledges only writes that %s replicas have, and %s as before", n.Name(), db.Name, copies(s.Wanted), copies(s.Counting))
	}
	var missing []string
	for _, id := range s.Wanted.Replicas {
		present := func(f leadership.FollowerStatus) bool { return f.Node == id && f.Present }
		if id != n.identity.Node && !slices.ContainsFunc(s.Followers, present) {
			missing = append(missing, directory{n}.NodeName(id))
		}
	}
	if len(missing) > 0 {
		text += "; it does not hear " + enumerate(missing)
	}
	return text
}

func enumerate(names []string) string {
	last := len(names) - 1
	if last < 1 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// awaitIntake returns when every node that can be reached has taken in a command
// that was agreed on, and the leader of a database acts by its policy if the
// command is about that. Whoever does not answer in time is told of in a notice.
func (n *Node) awaitIntake(ctx context.Context, r catalog.Result, a catalog.Action) {
	q := intakeRequest{Index: r.Index}
	var gone base.NodeID
	switch a := a.(type) {
	case catalog.AlterDatabase:
		q.Database = a.Database
	case catalog.RemoveNode:
		gone = a.Node
	}
	found := n.askIntake(ctx, q, gone)
	if ctx.Err() != nil {
		return // Nobody is there to be told.
	}
	var deaf, unsettled []string
	for _, f := range found {
		switch {
		case f.deaf:
			deaf = append(deaf, f.name)
		case f.unsettled != "":
			unsettled = append(unsettled, f.unsettled)
		}
	}
	if len(deaf) > 0 {
		unsettled = append([]string{n.deafText(deaf, q.Database)}, unsettled...)
	}
	for _, text := range unsettled {
		n.log.Warn("done, and not in force everywhere yet", "why", text)
		base.Notice(ctx, text)
	}
}

// deafText says who has not heard of a command.
func (n *Node) deafText(names []string, id base.DatabaseID) string {
	verb := "has"
	if len(names) > 1 {
		verb = "have"
	}
	text := fmt.Sprintf("%s %s not heard of it yet", enumerate(names), verb)
	if db, ok := n.control.State().Database(id); ok {
		if leader := (directory{n}).NodeName(db.Leader); slices.Contains(names, leader) {
			text += fmt.Sprintf("; %s leads %s and may go on by the old policy until it has", leader, db.Name)
		}
	}
	return text
}

// intakeFinding is what came of asking one node.
type intakeFinding struct {
	name      string
	deaf      bool
	unsettled string
}

// askIntake asks all nodes but one, and those that are given up for dead, at once,
// and not those that are known to be out of reach.
func (n *Node) askIntake(ctx context.Context, q intakeRequest, not base.NodeID) []intakeFinding {
	request, err := json.Marshal(q)
	if err != nil {
		panic(err) // Two numbers.
	}
	var members []catalog.Node
	for _, m := range n.control.State().Nodes() {
		if m.State != catalog.NodeLeft && m.State != catalog.NodeDead && m.ID != not {
			members = append(members, m)
		}
	}
	slices.SortFunc(members, func(a, b catalog.Node) int { return cmp.Compare(a.Name, b.Name) })
	found := make([]intakeFinding, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		found[i] = intakeFinding{name: m.Name, deaf: true}
		if how := n.reach.get(m.ID); how == transport.Refused || how == transport.Lost {
			continue
		}
		all.Go(func() {
			var reply intakeReply
			answer, err := n.call(ctx, m.ID, intakeMethod, request, intakeWait)
			if err == nil {
				err = json.Unmarshal(answer, &reply)
			}
			found[i].deaf, found[i].unsettled = err != nil, reply.Unsettled
		})
	}
	all.Wait()
	return found
}
