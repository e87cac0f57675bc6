package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/replica/leader"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/transport"
)

// switchoverMethod runs a switchover on the node that leads the control plane.
const switchoverMethod = "node.switchover"

const (
	// readyWait bounds how long a new database is waited for.
	readyWait = 20 * time.Second
	// importWait bounds how long its leader may take to import a file.
	importWait = 30 * time.Minute
)

// stagedName is what an uploaded file is called; peers name no other.
var stagedName = regexp.MustCompile(`^[0-9a-f]{16}\.sqlite$`)

// Propose has a command of an operator agreed on by the control plane, and
// returns when it is in force on every node that answers. What those that do not
// answer within a second have missed is no error, but left as a notice with ctx.
func (n *Node) Propose(ctx context.Context, a catalog.Action) (catalog.Result, error) {
	r, err := n.control.Propose(ctx, catalog.Command{Action: a})
	if err == nil {
		n.awaitIntake(ctx, r, a)
	}
	return r, err
}

// Database finds a database by name.
func (n *Node) Database(name string) (catalog.Database, error) {
	db, ok := n.control.State().DatabaseByName(name)
	if !ok || db.Dropped {
		return db, base.Errorf(base.KindNotFound, "database %q does not exist", name)
	}
	return db, nil
}

// Replica returns this node's replica of a database.
func (n *Node) Replica(name string) (*leader.Replica, error) {
	db, err := n.Database(name)
	if err != nil {
		return nil, err
	}
	return n.replicaFor(db.ID)
}

// CreateDatabase makes a database and waits until it can be used.
func (n *Node) CreateDatabase(ctx context.Context, name string, p base.Policy) error {
	if _, err := n.Propose(ctx, catalog.CreateDatabase{Name: name, Policy: p}); err != nil {
		return err
	}
	return n.awaitServing(ctx, name)
}

func tooLate(name string) *base.Error {
	return &base.Error{
		Kind: base.KindTimeout, Message: fmt.Sprintf("the change of database %q is agreed on, but it had no serving leader within %v", name, readyWait),
		Outcome: base.Done, Hint: "skein status shows why",
	}
}

// AwaitKnown waits until this node has heard of a database: what was agreed on
// may have been answered by another node, and reach this one a moment later.
func (n *Node) AwaitKnown(ctx context.Context, name string) error {
	for {
		changed := n.control.Changed()
		if _, err := n.Database(name); err == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// awaitServing waits until a database answers its leader's reads.
func (n *Node) awaitServing(ctx context.Context, name string) error {
	ctx, cancel := n.env.Clock.WithTimeout(ctx, readyWait, tooLate(name))
	defer cancel()
	if err := n.AwaitKnown(ctx, name); err != nil {
		return err
	}
	s, err := n.gateway.Open(ctx, session.Options{Trusted: true, Database: name, FrontEnd: "node"})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Set("skein.read", "leader"); err != nil {
		return err
	}
	for {
		err := n.probe(ctx, s)
		if err == nil {
			return nil
		}
		if _, gone := n.Database(name); gone != nil {
			return gone
		}
		if n.env.Clock.Sleep(ctx, 50*time.Millisecond) != nil {
			return n.unserved(ctx, name, err)
		}
	}
}

// unserved is the error when the wait for a new database has ended.
func (n *Node) unserved(ctx context.Context, name string, last error) error {
	e := tooLate(name)
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		e.Kind, e.Message = base.KindCanceled, fmt.Sprintf("the change of database %q is agreed on; the wait until it serves was given up", name)
	}
	e.Err = last
	return e
}

func (n *Node) probe(ctx context.Context, s session.Session) error {
	rows, err := s.Query(ctx, "SELECT 1", nil)
	if err != nil {
		return err
	}
	for rows.Next() {
	}
	return errors.Join(rows.Err(), rows.Close())
}

// importRequest asks a leader to fetch a file from a node and import it.
type importRequest struct {
	Database base.DatabaseID `json:"database"`
	From     base.NodeID     `json:"from"`
	Name     string          `json:"name"`
	Size     int64           `json:"size"`
}

func (n *Node) importDir() string { return n.options.Dir + "/import" }

// CreateDatabaseFrom makes a database out of an SQLite file of size bytes. When
// it fails nothing is left.
func (n *Node) CreateDatabaseFrom(ctx context.Context, name string, p base.Policy, r io.Reader, size int64) error {
	if err := catalog.CheckDatabaseName(name); err != nil {
		return err
	}
	if _, err := n.Database(name); err == nil {
		return base.Errorf(base.KindExists, "database %q exists already", name)
	}
	file, err := n.stage(r, size)
	if err != nil {
		return err
	}
	path := n.importDir() + "/" + file
	defer n.unstage(path)
	if err := leader.CheckImport(ctx, n.env, path); err != nil {
		return fmt.Errorf("check the file: %w", err)
	}
	st, err := n.env.FS.Stat(path)
	if err != nil {
		return err
	}
	result, err := n.Propose(ctx, catalog.CreateDatabase{Name: name, Policy: p})
	if err != nil {
		return err
	}
	if err = n.awaitServing(ctx, name); err == nil {
		err = n.importInto(ctx, importRequest{Database: result.Database, From: n.identity.Node, Name: file, Size: st.Size()})
	}
	if err == nil {
		return nil
	}
	// By its id: the name may be another database's by now.
	if _, kept := n.Propose(context.WithoutCancel(ctx), catalog.DropDatabase{Database: result.Database}); kept != nil && base.KindOf(kept) != base.KindNotFound {
		return base.Errorf(base.KindOf(err), "import: %w; database %s could not be dropped: %w", err, name, kept).WithOutcome(base.Indeterminate)
	}
	return base.Errorf(base.KindOf(err), "import: %w", err).WithOutcome(base.NotDone)
}

// unstage removes an uploaded file and what SQLite may have put beside it.
func (n *Node) unstage(path string) {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal", ".new"} {
		if err := n.env.FS.RemoveAll(path + suffix); err != nil {
			n.log.Warn("remove an upload", "path", path+suffix, "err", err)
		}
	}
}

// stage writes an uploaded file to disk.
func (n *Node) stage(r io.Reader, size int64) (name string, err error) {
	if err := n.env.FS.MkdirAll(n.importDir(), 0o700); err != nil {
		return "", err
	}
	if free, err := n.env.FS.Free(n.options.Dir); err == nil && free < 2*size {
		return "", base.Errorf(base.KindDiskFull, "the file has %d bytes, and %d are free; twice its size is needed", size, free)
	}
	name = fmt.Sprintf("%016x.sqlite", n.env.Rand.Uint64())
	return name, n.copyIn(n.importDir()+"/"+name, r, size)
}

func (n *Node) copyIn(path string, r io.Reader, size int64) error {
	f, err := n.env.FS.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	at := int64(0)
	for at < size && err == nil {
		b := block[:min(int64(len(block)), size-at)]
		if _, err = io.ReadFull(r, b); err == nil {
			_, err = f.WriteAt(b, at)
			at += int64(len(b))
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write the uploaded file: %w", err), n.env.FS.Remove(path))
	}
	return nil
}

// importInto has the database's leader import a file, whoever that is by then.
func (n *Node) importInto(ctx context.Context, q importRequest) error {
	b, err := json.Marshal(q)
	if err != nil {
		return err
	}
	for end := n.env.Clock.Now().Add(readyWait); ; {
		db, ok := n.control.State().Database(q.Database)
		if !ok || db.Dropped {
			return base.Errorf(base.KindNotFound, "the database was dropped meanwhile")
		}
		err := error(base.Errorf(base.KindNoLeader, "database %s has no leader just now", db.Name))
		if db.Leader != 0 {
			_, err = n.call(ctx, db.Leader, importMethod, b, importWait)
		}
		if k := base.KindOf(err); k != base.KindNoLeader && k != base.KindNotLeader || n.env.Clock.Now().After(end) {
			return err
		}
		if n.env.Clock.Sleep(ctx, 50*time.Millisecond) != nil {
			return err
		}
	}
}

// serveImport fetches a file and imports it into a database that this node
// leads.
func (n *Node) serveImport(ctx context.Context, from base.NodeID, request []byte) ([]byte, error) {
	var q importRequest
	if err := json.Unmarshal(request, &q); err != nil || q.From != from || !stagedName.MatchString(q.Name) {
		return nil, base.Errorf(base.KindInvalid, "bad request to import")
	}
	r, err := n.replicaFor(q.Database)
	if err != nil {
		return nil, err
	}
	path := n.importDir() + "/" + q.Name
	if q.From != n.identity.Node {
		body, size, err := n.transport.FetchFile(ctx, q.From, importPrefix+"/"+q.Name, 0)
		if err != nil {
			return nil, err
		}
		defer body.Close()
		if err := n.env.FS.MkdirAll(n.importDir(), 0o700); err != nil {
			return nil, err
		}
		if path += ".fetched"; size != q.Size {
			return nil, base.Errorf(base.KindInvalid, "the file changed its size from %d to %d", q.Size, size)
		}
		if err := n.copyIn(path, body, size); err != nil {
			return nil, err
		}
		defer n.env.FS.RemoveAll(path)
	}
	at, err := r.Import(ctx, path)
	if err != nil {
		return nil, err
	}
	return []byte(at.String()), nil
}

// openImportFile serves an uploaded file to the leader that imports it.
func (n *Node) openImportFile(_ context.Context, _ base.NodeID, name string) (transport.ReadAtCloser, int64, error) {
	file, ok := strings.CutPrefix(name, importPrefix+"/")
	if !ok || !stagedName.MatchString(file) {
		return nil, 0, base.Errorf(base.KindNotFound, "no such file")
	}
	f, err := n.env.FS.OpenFile(n.importDir()+"/"+file, os.O_RDONLY, 0)
	if err != nil {
		return nil, 0, base.Errorf(base.KindNotFound, "no such file")
	}
	size, err := f.Size()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, size, nil
}

// DropDatabase drops a database everywhere.
func (n *Node) DropDatabase(ctx context.Context, name string) error {
	db, err := n.Database(name)
	if err != nil {
		return err
	}
	_, err = n.Propose(ctx, catalog.DropDatabase{Database: db.ID})
	return err
}

// MarkDead has other nodes make up for one that does not answer. Once it is back
// and has caught up it counts as before; its replicas were taken away meanwhile
// where others have taken their place.
func (n *Node) MarkDead(ctx context.Context, id base.NodeID) error {
	if id == n.identity.Node || n.Reachable(id) {
		return base.Errorf(base.KindConflict, "node %s answers, and is not dead", directory{n}.NodeName(id)).
			WithHint("stop its process first; to take it out of the cluster for ever, remove it")
	}
	_, err := n.Propose(ctx, catalog.MarkDead{Node: id})
	return err
}

type switchoverRequest struct {
	Database base.DatabaseID `json:"database"`
	Target   base.NodeID     `json:"target"`
	// Lost: the leader is, so that this is a failover; AcceptLoss, that it may
	// lose writes.
	Lost       bool `json:"lost,omitempty"`
	AcceptLoss bool `json:"accept_loss,omitempty"`
}

// Switchover moves a database's leadership to target, or to the best follower
// when target is 0, without losing or failing a write, and returns who leads,
// and serves by then.
func (n *Node) Switchover(ctx context.Context, name string, target base.NodeID) (base.NodeID, error) {
	db, err := n.Database(name)
	if err != nil {
		return 0, err
	}
	leads, err := n.moveLeader(ctx, db, target)
	if err != nil {
		return 0, err
	}
	return leads, n.awaitServing(ctx, name)
}

// Failover has target lead a database whose leader is lost, or the best of its
// replicas when that is 0. Without acceptLoss it does so only if no acknowledged
// write can be lost by it. With it, those that do not answer are taken to be gone
// for good, and what only they had is lost.
func (n *Node) Failover(ctx context.Context, name string, target base.NodeID, acceptLoss bool) (base.NodeID, error) {
	db, err := n.Database(name)
	if err != nil {
		return 0, err
	}
	n.log.Warn("an operator wants a failover", "database", name, "to", target, "accept_loss", acceptLoss)
	q := switchoverRequest{Database: db.ID, Target: target, Lost: true, AcceptLoss: acceptLoss}
	leads, err := n.askSupervisor(ctx, q)
	if err != nil {
		return 0, err
	}
	return leads, n.awaitServing(ctx, name)
}

// moveLeader returns when another leader is agreed on.
func (n *Node) moveLeader(ctx context.Context, db catalog.Database, target base.NodeID) (base.NodeID, error) {
	return n.askSupervisor(ctx, switchoverRequest{Database: db.ID, Target: target})
}

// askSupervisor has the node that leads the control plane do what an operator
// wants.
func (n *Node) askSupervisor(ctx context.Context, q switchoverRequest) (base.NodeID, error) {
	control := n.control.Leader()
	if control == 0 {
		return 0, base.Errorf(base.KindNoLeader, "the control plane has no leader just now").WithHint("try again; skein status shows why")
	}
	if control == n.identity.Node {
		return n.supervisor.obey(ctx, q)
	}
	b, err := json.Marshal(q)
	if err != nil {
		return 0, err
	}
	reply, err := n.call(ctx, control, switchoverMethod, b, (switchoverLeases+2)*n.options.Lease)
	if err != nil {
		return 0, err
	}
	return base.ParseNodeID(string(reply))
}

func (n *Node) serveSwitchover(ctx context.Context, _ base.NodeID, request []byte) ([]byte, error) {
	var q switchoverRequest
	if err := json.Unmarshal(request, &q); err != nil {
		return nil, base.Errorf(base.KindInvalid, "bad request to switch over")
	}
	if !n.control.IsLeader() {
		return nil, base.Errorf(base.KindNotLeader, "this node does not lead the control plane")
	}
	leads, err := n.supervisor.obey(ctx, q)
	if err != nil {
		return nil, err
	}
	return []byte(leads.String()), nil
}
