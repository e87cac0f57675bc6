package httpapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/skeindb/skein/internal/base"
)

func (a *API) status(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := a.need(r.Context(), "*", RightRead); err != nil {
		return nil, err
	}
	return a.options.Node.Status(r.Context())
}

func (a *API) localStatus(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := a.need(r.Context(), "*", RightRead); err != nil {
		return nil, err
	}
	return a.options.Node.LocalStatus(r.Context())
}

// listDatabases shows the databases that the user may read.
func (a *API) listDatabases(w http.ResponseWriter, r *http.Request) (any, error) {
	all, err := a.options.Node.ListDatabases(r.Context())
	if err != nil {
		return nil, err
	}
	visible := []Database{}
	for _, d := range all {
		if a.need(r.Context(), d.Name, RightRead) == nil {
			visible = append(visible, d)
		}
	}
	return visible, nil
}

// CreateRequest is the body of POST /v1/databases.
type CreateRequest struct {
	Name   string      `json:"name"`
	Policy PolicyPatch `json:"policy"` // over the default policy
}

// Done is the answer of an operation that has nothing more to say.
type Done struct {
	Done bool `json:"done"`
}

var done = Done{Done: true}

func (a *API) createDatabase(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := a.need(r.Context(), "*", RightAdmin); err != nil {
		return nil, err
	}
	var c CreateRequest
	if err := readJSON(w, r, maxJSONBody, &c); err != nil {
		return nil, err
	}
	policy, err := c.Policy.Apply(base.DefaultPolicy())
	if err != nil {
		return nil, err
	}
	if c.Name == "" {
		return nil, base.Errorf(base.KindInvalid, "a database needs a name")
	}
	if err := a.options.Node.CreateDatabase(r.Context(), c.Name, policy); err != nil {
		return nil, err
	}
	send(w, http.StatusCreated, done)
	return nil, nil
}

// importDatabase streams an SQLite file. The policy comes in the query string,
// under the names of PolicyPatch.
func (a *API) importDatabase(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := a.need(r.Context(), "*", RightAdmin); err != nil {
		return nil, err
	}
	patch, err := patchFromQuery(r.URL.Query())
	if err != nil {
		return nil, err
	}
	policy, err := patch.Apply(base.DefaultPolicy())
	if err != nil {
		return nil, err
	}
	if r.ContentLength <= 0 {
		return nil, base.Errorf(base.KindInvalid, "an import needs a Content-Length above zero")
	}
	body := &moving{api: a, control: http.NewResponseController(w), reader: r.Body}
	if err := a.options.Node.CreateDatabaseFrom(r.Context(), r.PathValue("name"), policy, body, r.ContentLength); err != nil {
		// A connection with an unread body cannot be used again.
		w.Header().Set("Connection", "close")
		return nil, err
	}
	send(w, http.StatusCreated, done)
	return nil, nil
}

// patchFromQuery reads a PolicyPatch from the parameters of a URL.
func patchFromQuery(q map[string][]string) (PolicyPatch, error) {
	var p PolicyPatch
	text := map[string]**string{
		"model": &p.Model, "durability": &p.Durability, "degrade_after": &p.DegradeAfter, "log_format": &p.LogFormat,
		"max_lag": &p.MaxLag, "failover": &p.Failover,
		"tx_idle_timeout": &p.TxIdleTimeout, "tx_total_timeout": &p.TxTotalTimeout,
	}
	for name, values := range q {
		value := values[0]
		var err error
		if to, ok := text[name]; ok {
			*to = &value
			continue
		}
		switch name {
		case "replicas":
			p.Replicas, err = parsed(strconv.Atoi(value))
		case "allow_loss":
			p.AllowLoss, err = parsed(strconv.ParseBool(value))
		case "retention_bytes":
			p.RetentionBytes, err = parsed(strconv.ParseInt(value, 10, 64))
		default:
			err = fmt.Errorf("unknown parameter")
		}
		if err != nil {
			return p, base.Errorf(base.KindInvalid, "parameter %s=%s: %w", name, value, err)
		}
	}
	return p, nil
}

func parsed[T any](v T, err error) (*T, error) { return &v, err }

func (a *API) alterDatabase(w http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := a.need(r.Context(), name, RightAdmin); err != nil {
		return nil, err
	}
	var patch PolicyPatch
	if err := readJSON(w, r, maxJSONBody, &patch); err != nil {
		return nil, err
	}
	if patch.Empty() {
		return nil, base.Errorf(base.KindInvalid, "nothing to change: the body names no field of the policy")
	}
	// The same check that the node makes on the real policy finds malformed
	// fields before anything is proposed.
	if _, err := patch.Apply(base.DefaultPolicy()); err != nil {
		return nil, err
	}
	policy, err := a.options.Node.AlterDatabase(r.Context(), name, patch)
	return Policy(policy), err
}

func (a *API) dropDatabase(w http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := a.need(r.Context(), name, RightAdmin); err != nil {
		return nil, err
	}
	return done, a.options.Node.DropDatabase(r.Context(), name)
}

// SwitchoverRequest is the body of POST .../switchover; it may be empty.
type SwitchoverRequest struct {
	To string `json:"to"` // node id; "" lets the cluster choose
}

// SwitchoverResult says who leads now.
type SwitchoverResult struct {
	Leader string `json:"leader"` // node id
}

func (a *API) switchover(w http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := a.need(r.Context(), name, RightAdmin); err != nil {
		return nil, err
	}
	var s SwitchoverRequest
	if r.ContentLength != 0 {
		if err := readJSON(w, r, maxJSONBody, &s); err != nil {
			return nil, err
		}
	}
	target, err := nodeOrNone(s.To)
	if err != nil {
		return nil, err
	}
	leader, err := a.options.Node.Switchover(r.Context(), name, target)
	return SwitchoverResult{Leader: IDString(leader)}, err
}

// FailoverRequest is the body of POST .../failover; it may be empty.
type FailoverRequest struct {
	To string `json:"to"` // node id; "" lets the cluster choose
	// AcceptLoss: those replicas that do not answer are gone for good, and what
	// only they had is lost.
	AcceptLoss bool `json:"accept_loss"`
}

func (a *API) failover(w http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := a.need(r.Context(), name, RightAdmin); err != nil {
		return nil, err
	}
	var f FailoverRequest
	if r.ContentLength != 0 {
		if err := readJSON(w, r, maxJSONBody, &f); err != nil {
			return nil, err
		}
	}
	target, err := nodeOrNone(f.To)
	if err != nil {
		return nil, err
	}
	leader, err := a.options.Node.Failover(r.Context(), name, target, f.AcceptLoss)
	return SwitchoverResult{Leader: IDString(leader)}, err
}

func nodeOrNone(to string) (base.NodeID, error) {
	if to == "" {
		return 0, nil
	}
	id, err := base.ParseNodeID(to)
	if err != nil {
		return 0, base.Errorf(base.KindInvalid, "to: %w", err)
	}
	return id, nil
}

// PositionHeader carries the position that a snapshot holds.
const PositionHeader = "Skein-Position"

func (a *API) snapshot(w http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := a.need(r.Context(), name, RightRead); err != nil {
		return nil, err
	}
	file, size, position, err := a.options.Node.Snapshot(r.Context(), name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	w.Header().Set("Content-Type", "application/vnd.sqlite3")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	w.Header().Set(PositionHeader, position.String())
	w.WriteHeader(http.StatusOK)
	out := &moving{api: a, control: http.NewResponseController(w), writer: w}
	n, err := io.CopyBuffer(out, io.LimitReader(file, size), make([]byte, 256<<10))
	if err == nil && n != size {
		err = fmt.Errorf("snapshot ended after %d of %d bytes", n, size)
	}
	if err != nil {
		a.log.Warn("a snapshot was not sent whole", "database", name, "error", err)
	}
	return nil, err
}

// moving moves the deadline on with every read or write: a transfer may take
// as long as it needs while bytes move.
type moving struct {
	api     *API
	control *http.ResponseController
	reader  io.Reader
	writer  io.Writer
}

func (m *moving) deadline() time.Time {
	return m.api.env.Clock.Now().Add(m.api.options.StallTimeout)
}

// Read implements io.Reader.
func (m *moving) Read(p []byte) (int, error) {
	_ = m.control.SetReadDeadline(m.deadline()) // Not every test double has deadlines.
	n, err := m.reader.Read(p)
	if err == io.EOF {
		_ = m.control.SetReadDeadline(time.Time{}) // What follows is work, not waiting for bytes.
	}
	return n, err
}

// Write implements io.Writer.
func (m *moving) Write(p []byte) (int, error) {
	_ = m.control.SetWriteDeadline(m.deadline()) // Not every test double has deadlines.
	return m.writer.Write(p)
}

func (a *API) orphans(w http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := a.need(r.Context(), name, RightRead); err != nil {
		return nil, err
	}
	list, err := a.options.Node.Orphans(r.Context(), name)
	return nonNil(list), err
}

func (a *API) settleOrphans(replay bool) handle {
	return func(w http.ResponseWriter, r *http.Request) (any, error) {
		name := r.PathValue("name")
		if err := a.need(r.Context(), name, RightAdmin); err != nil {
			return nil, err
		}
		var which OrphanChoice
		if r.ContentLength != 0 {
			if err := readJSON(w, r, maxJSONBody, &which); err != nil {
				return nil, err
			}
		}
		outcomes, err := a.options.Node.SettleOrphans(r.Context(), name, which, replay)
		return nonNil(outcomes), err
	}
}

func (a *API) hash(w http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := a.need(r.Context(), name, RightRead); err != nil {
		return nil, err
	}
	hashes, err := a.options.Node.ContentHash(r.Context(), name)
	return HashReport{Database: name, Verdict: Compare(hashes), Replicas: nonNil(hashes)}, err
}

func (a *API) listNodes(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := a.need(r.Context(), "*", RightRead); err != nil {
		return nil, err
	}
	nodes, err := a.options.Node.ListNodes(r.Context())
	return nonNil(nodes), err
}

// changeNode serves what is done to one node.
func (a *API) changeNode(change func(context.Context, base.NodeID) error) handle {
	return func(_ http.ResponseWriter, r *http.Request) (any, error) {
		if err := a.need(r.Context(), "*", RightAdmin); err != nil {
			return nil, err
		}
		id, err := base.ParseNodeID(r.PathValue("id"))
		if err != nil {
			return nil, base.Errorf(base.KindInvalid, "%w", err)
		}
		return done, change(r.Context(), id)
	}
}

func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (a *API) listUsers(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := a.need(r.Context(), "*", RightAdmin); err != nil {
		return nil, err
	}
	users, err := a.options.Node.ListUsers(r.Context())
	return nonNil(users), err
}

// CreateUserRequest is the body of POST /v1/users; of PUT .../password only
// the password counts.
type CreateUserRequest struct {
	Name     string `json:"name"`
	Password string `json:"password"`
}

func (a *API) createUser(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := a.need(r.Context(), "*", RightAdmin); err != nil {
		return nil, err
	}
	var u CreateUserRequest
	if err := readJSON(w, r, maxJSONBody, &u); err != nil {
		return nil, err
	}
	if u.Name == "" || u.Password == "" {
		return nil, base.Errorf(base.KindInvalid, "a user needs a name and a password")
	}
	if err := a.options.Node.CreateUser(r.Context(), u.Name, u.Password); err != nil {
		return nil, err
	}
	send(w, http.StatusCreated, done)
	return nil, nil
}

// setPassword is open to administrators and to the user concerned.
func (a *API) setPassword(w http.ResponseWriter, r *http.Request) (any, error) {
	user := r.PathValue("user")
	if id := identityOf(r.Context()); id.trusted || id.user != user {
		if err := a.need(r.Context(), "*", RightAdmin); err != nil {
			return nil, err
		}
	}
	var u CreateUserRequest
	if err := readJSON(w, r, maxJSONBody, &u); err != nil {
		return nil, err
	}
	if u.Password == "" {
		return nil, base.Errorf(base.KindInvalid, "the new password is empty")
	}
	return done, a.options.Node.SetPassword(r.Context(), user, u.Password)
}

func (a *API) dropUser(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := a.need(r.Context(), "*", RightAdmin); err != nil {
		return nil, err
	}
	return done, a.options.Node.DropUser(r.Context(), r.PathValue("user"))
}

// GrantRequest is the body of PUT /v1/users/{user}/grants/{database}.
type GrantRequest struct {
	Right string `json:"right"`
}

func (a *API) grant(w http.ResponseWriter, r *http.Request) (any, error) {
	database := r.PathValue("database")
	if err := a.need(r.Context(), database, RightAdmin); err != nil {
		return nil, err
	}
	var g GrantRequest
	if err := readJSON(w, r, maxJSONBody, &g); err != nil {
		return nil, err
	}
	right, err := ParseRight(g.Right)
	if err != nil {
		return nil, err
	}
	return done, a.options.Node.Grant(r.Context(), r.PathValue("user"), database, right)
}

func (a *API) revoke(w http.ResponseWriter, r *http.Request) (any, error) {
	database := r.PathValue("database")
	if err := a.need(r.Context(), database, RightAdmin); err != nil {
		return nil, err
	}
	return done, a.options.Node.Revoke(r.Context(), r.PathValue("user"), database)
}
