package catalog

import (
	"regexp"
	"slices"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
)

// CreateDatabase makes a database and places it; Result.Database is its id.
type CreateDatabase struct {
	Name   string      `json:"name"` // NamePattern
	Policy base.Policy `json:"policy"`
}

// AlterDatabase replaces a database's policy. Replicas that are then missing
// are placed at once; ones too many stay until SetReplicas takes them away,
// which only the leader can do safely: see State.Surplus.
type AlterDatabase struct {
	Database base.DatabaseID `json:"database"`
	Policy   base.Policy     `json:"policy"`
	// Was is the policy that Policy was made from; if it is no longer in force,
	// nothing is changed. nil: whatever is in force is replaced.
	Was *base.Policy `json:"was,omitempty"`
}

// DropDatabase drops a database, its grants included.
type DropDatabase struct {
	Database base.DatabaseID `json:"database"`
}

// SetReplicas adds or removes one replica, for the leader of Epoch. One that is
// removed counts until SetCounting says otherwise. A replica that is added to a database with a
// history copies until SetCounting counts it.
type SetReplicas struct {
	Database base.DatabaseID `json:"database"`
	Epoch    base.Epoch      `json:"epoch"`
	Replicas []base.NodeID   `json:"replicas"`
}

// Elect makes a node the leader of a new epoch. It is a compare-and-set: Epoch
// must follow the current one.
type Elect struct {
	Database base.DatabaseID `json:"database"`
	Epoch    base.Epoch      `json:"epoch"`
	Leader   base.NodeID     `json:"leader"`
	From     base.Position   `json:"from"`
	Reason   string          `json:"reason"`
	Lossy    bool            `json:"lossy"`
	// Revision of the counting that the election relied on.
	Revision uint64 `json:"revision"`
	// Counting replaces the recorded one when an operator has forced the
	// election: what it leaves out counts no more.
	Counting *leadership.Counting `json:"counting,omitempty"`
}

// SetCounting records another counting. The leader of Epoch proposes it, and
// obeys both until it is recorded; Counting.Revision must follow the recorded
// one.
type SetCounting struct {
	Database base.DatabaseID     `json:"database"`
	Epoch    base.Epoch          `json:"epoch"`
	Counting leadership.Counting `json:"counting"`
}

func (CreateDatabase) verb() string { return "create_database" }
func (AlterDatabase) verb() string  { return "alter_database" }
func (DropDatabase) verb() string   { return "drop_database" }
func (SetReplicas) verb() string    { return "set_replicas" }
func (Elect) verb() string          { return "elect" }
func (SetCounting) verb() string    { return "set_counting" }

// NamePattern is what a database's name must look like.
const NamePattern = `^[a-z_][a-z0-9_-]{0,62}$`

var databaseName = regexp.MustCompile(NamePattern)

// CheckDatabaseName says what is wrong with a name.
func CheckDatabaseName(name string) error {
	if !databaseName.MatchString(name) {
		return base.Errorf(base.KindInvalid, "database name %.80q: want a lower-case letter or _, then up to 62 of a-z, 0-9, _ and -", name)
	}
	return nil
}

func (a CreateDatabase) apply(d *draft) *base.Error {
	if err := CheckDatabaseName(a.Name); err != nil {
		return base.AsError(err)
	}
	if err := a.Policy.Validate(); err != nil {
		return base.AsError(err)
	}
	if _, ok := d.DatabaseByName(a.Name); ok {
		return base.Errorf(base.KindExists, "database %q exists already", a.Name)
	}
	if d.countDatabases() >= MaxDatabases {
		return base.Errorf(base.KindTooLarge, "the cluster has %d databases, which is the limit", MaxDatabases)
	}
	db := Database{ID: d.nextDatabase, Name: a.Name, Policy: a.Policy, CreatedAt: d.applied}
	d.place(&db)
	if len(db.Replicas) == 0 {
		return base.Errorf(base.KindDegraded, "no node is active, so that database %q has no place", a.Name)
	}
	d.nextDatabase++
	d.databases = append(d.databases, db)
	d.result.Database = db.ID
	return nil
}

func (d *draft) countDatabases() int {
	n := 0
	for _, db := range d.databases {
		if !db.Dropped {
			n++
		}
	}
	return n
}

// live finds a database that is not dropped.
func (d *draft) live(id base.DatabaseID) (*Database, *base.Error) {
	i := d.databaseAt(id)
	if i < 0 || d.databases[i].Dropped {
		return nil, base.Errorf(base.KindNotFound, "database %d does not exist", id)
	}
	return &d.databases[i], nil
}

// liveIn finds a database and checks that it is still in an epoch.
func (d *draft) liveIn(id base.DatabaseID, epoch base.Epoch) (*Database, *base.Error) {
	db, err := d.live(id)
	if err == nil && db.Epoch != epoch {
		return nil, base.Errorf(base.KindConflict, "database %q is in epoch %d, not %d", db.Name, db.Epoch, epoch)
	}
	return db, err
}

func (a AlterDatabase) apply(d *draft) *base.Error {
	db, err := d.live(a.Database)
	if err != nil {
		return err
	}
	if err := a.Policy.Validate(); err != nil {
		return base.AsError(err)
	}
	if a.Was != nil && db.Policy != *a.Was {
		return base.Errorf(base.KindConflict, "another command has changed the policy of database %q in the meantime", db.Name).
			WithHint("look at it, and send the command again if it is still wanted")
	}
	db.Policy = a.Policy
	d.place(db)
	db.countAnew()
	return nil
}

func (a DropDatabase) apply(d *draft) *base.Error {
	db, err := d.live(a.Database)
	if err != nil {
		return err
	}
	db.Dropped, db.Leader = true, 0
	d.dropWebhooks(db.ID)
	for i, u := range d.users {
		d.users[i].Grants = slices.DeleteFunc(slices.Clone(u.Grants), func(g Granted) bool { return g.Database == db.Name })
	}
	if len(d.databases)-d.countDatabases() > maxDropped {
		first := slices.IndexFunc(d.databases, func(db Database) bool { return db.Dropped })
		d.databases = slices.Delete(d.databases, first, first+1)
	}
	return nil
}

func (a SetReplicas) apply(d *draft) *base.Error {
	db, err := d.liveIn(a.Database, a.Epoch)
	if err != nil {
		return err
	}
	next := slices.Compact(slices.Sorted(slices.Values(a.Replicas)))
	added := without(next, db.HasReplica)
	removed := without(db.Replicas, func(id base.NodeID) bool { return slices.Contains(next, id) })
	if len(next) != len(a.Replicas) || len(added)+len(removed) != 1 {
		return base.Errorf(base.KindInvalid, "replicas of database %q change by one at a time; asked are %d new and %d gone", db.Name, len(added), len(removed))
	}
	if len(added) == 1 {
		return d.addReplica(db, added[0])
	}
	return d.removeReplica(db, removed[0])
}

func (d *draft) addReplica(db *Database, id base.NodeID) *base.Error {
	i, err := d.member(id)
	if err != nil {
		return err
	}
	if n := d.nodes[i]; n.State != NodeIsActive {
		return base.Errorf(base.KindInvalid, "node %s is %s; only an active one gets a replica", n.Name, n.State)
	}
	db.add(id)
	return nil
}

func (d *draft) removeReplica(db *Database, id base.NodeID) *base.Error {
	if db.Leader == id {
		return base.Errorf(base.KindConflict, "node %s leads database %q", id, db.Name).
			WithHint("switch its leader to another node first")
	}
	gone := func(r base.NodeID) bool { return r == id }
	next := *db
	next.Replicas, next.Copying = without(db.Replicas, gone), without(db.Copying, gone)
	if !next.secure() {
		return base.Errorf(base.KindConflict, "database %q has its only full copy on node %s", db.Name, id)
	}
	if d.present(next) < min(d.wanted(next), d.present(*db)) {
		return base.Errorf(base.KindDegraded, "database %q would have %d replicas; its policy asks for %d", db.Name, d.present(next), d.wanted(next)).
			WithHint("alter the policy first, or add another replica")
	}
	*db = next
	db.countAnew()
	return nil
}

func (a Elect) apply(d *draft) *base.Error {
	db, err := d.live(a.Database)
	if err != nil {
		return err
	}
	if a.Epoch != db.Epoch+1 {
		return base.Errorf(base.KindConflict, "database %q is in epoch %d, so that epoch %d is not next", db.Name, db.Epoch, a.Epoch)
	}
	if a.Revision != db.Counting.Revision {
		return base.Errorf(base.KindConflict, "database %q counts by revision %d, not %d", db.Name, db.Counting.Revision, a.Revision)
	}
	if a.Counting != nil {
		if err := db.recount(*a.Counting); err != nil {
			return err
		}
	}
	if err := d.mayLead(*db, a.Leader); err != nil {
		return err
	}
	if len(a.Reason) > maxText {
		return base.Errorf(base.KindInvalid, "the reason has more than %d bytes", maxText)
	}
	db.Epoch, db.Leader = a.Epoch, a.Leader
	db.LastElection = Election{d.applied, a.Epoch, a.Leader, a.From, a.Reason, a.Lossy}
	return nil
}

func (a SetCounting) apply(d *draft) *base.Error {
	db, err := d.liveIn(a.Database, a.Epoch)
	if err != nil {
		return err
	}
	if a.Counting.Revision != db.Counting.Revision+1 {
		return base.Errorf(base.KindConflict, "database %q counts by revision %d, so that %d is not next", db.Name, db.Counting.Revision, a.Counting.Revision)
	}
	return db.recount(a.Counting)
}

// recount checks a counting and records it.
func (d *Database) recount(c leadership.Counting) *base.Error {
	if err := c.Validate(); err != nil {
		return base.Errorf(base.KindInvalid, "%w", err)
	}
	d.count(c)
	if !d.secure() {
		return base.Errorf(base.KindInvalid, "database %q would count on none of its replicas", d.Name)
	}
	return nil
}

// count records a counting; whoever it counts has a full copy.
func (d *Database) count(c leadership.Counting) {
	c.Revision = d.Counting.Revision + 1
	d.Counting = c
	d.Copying = without(d.Copying, c.Has)
}

func (d *draft) mayLead(db Database, id base.NodeID) *base.Error {
	if !db.HasReplica(id) {
		return base.Errorf(base.KindInvalid, "node %s is no replica of database %q", id, db.Name)
	}
	if db.IsCopying(id) || !db.Counting.Has(id) {
		return base.Errorf(base.KindConflict, "node %s is not known to have a full copy of database %q", id, db.Name)
	}
	if n, _ := d.Node(id); n.State != NodeIsActive {
		return base.Errorf(base.KindConflict, "node %s is %s; only an active one can lead", n.Name, n.State)
	}
	return nil
}
