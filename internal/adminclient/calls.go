package adminclient

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/httpapi"
)

func databasePath(name, rest string) string { return "/v1/databases/" + url.PathEscape(name) + rest }
func userPath(name, rest string) string     { return "/v1/users/" + url.PathEscape(name) + rest }

// Status returns the whole cluster as the first node that answers sees it.
func (c *Client) Status(ctx context.Context) (*httpapi.Status, error) {
	s := new(httpapi.Status)
	return s, c.json(ctx, http.MethodGet, "/v1/status", nil, s)
}

// LocalStatus returns what the first node that answers knows by itself.
func (c *Client) LocalStatus(ctx context.Context) (*httpapi.LocalStatus, error) {
	s := new(httpapi.LocalStatus)
	return s, c.json(ctx, http.MethodGet, "/v1/status/local", nil, s)
}

// ListDatabases lists the databases that the user may read.
func (c *Client) ListDatabases(ctx context.Context) ([]httpapi.Database, error) {
	var list []httpapi.Database
	err := c.json(ctx, http.MethodGet, "/v1/databases", nil, &list)
	return list, err
}

// CreateDatabase makes a database with patch over the default policy.
func (c *Client) CreateDatabase(ctx context.Context, name string, patch httpapi.PolicyPatch) error {
	return c.json(ctx, http.MethodPost, "/v1/databases", httpapi.CreateRequest{Name: name, Policy: patch}, nil)
}

// ImportDatabase makes a database from an SQLite file of size bytes. open is
// called for each node that is tried.
func (c *Client) ImportDatabase(ctx context.Context, name string, patch httpapi.PolicyPatch, size int64, open func() (io.Reader, error)) error {
	r := request{method: http.MethodPost, path: databasePath(name, "/import"), query: patchQuery(patch), body: open, size: size}
	response, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

func patchQuery(p httpapi.PolicyPatch) url.Values {
	q := url.Values{}
	for name, value := range map[string]*string{
		"model": p.Model, "durability": p.Durability, "degrade_after": p.DegradeAfter, "log_format": p.LogFormat,
		"max_lag": p.MaxLag, "failover": p.Failover,
		"tx_idle_timeout": p.TxIdleTimeout, "tx_total_timeout": p.TxTotalTimeout,
	} {
		if value != nil {
			q.Set(name, *value)
		}
	}
	if p.Replicas != nil {
		q.Set("replicas", strconv.Itoa(*p.Replicas))
	}
	if p.AllowLoss != nil {
		q.Set("allow_loss", strconv.FormatBool(*p.AllowLoss))
	}
	if p.RetentionBytes != nil {
		q.Set("retention_bytes", strconv.FormatInt(*p.RetentionBytes, 10))
	}
	return q
}

// AlterDatabase changes the fields that patch names; the policy that then
// holds is returned.
func (c *Client) AlterDatabase(ctx context.Context, name string, patch httpapi.PolicyPatch) (httpapi.Policy, error) {
	var p httpapi.Policy
	err := c.json(ctx, http.MethodPatch, databasePath(name, ""), patch, &p)
	return p, err
}

// DropDatabase removes a database from all nodes.
func (c *Client) DropDatabase(ctx context.Context, name string) error {
	return c.json(ctx, http.MethodDelete, databasePath(name, ""), nil, nil)
}

// Failover has a node lead a database whose leader is lost, or the best follower
// when to is zero; it returns the id of the node that leads then.
func (c *Client) Failover(ctx context.Context, name string, to base.NodeID, acceptLoss bool) (string, error) {
	var result httpapi.SwitchoverResult
	err := c.json(ctx, http.MethodPost, databasePath(name, "/failover"), httpapi.FailoverRequest{To: httpapi.IDString(to), AcceptLoss: acceptLoss}, &result)
	return result.Leader, err
}

// Switchover moves leadership to a node, or to the best follower when to is
// zero; it returns the id of the node that leads then.
func (c *Client) Switchover(ctx context.Context, name string, to base.NodeID) (string, error) {
	var result httpapi.SwitchoverResult
	err := c.json(ctx, http.MethodPost, databasePath(name, "/switchover"), httpapi.SwitchoverRequest{To: httpapi.IDString(to)}, &result)
	return result.Leader, err
}

// Snapshot is a database file being downloaded.
type Snapshot struct {
	Body     io.ReadCloser
	Size     int64
	Position string // "epoch/seq"
}

// Snapshot downloads a consistent SQLite file from the first node that has
// one. Reading less than Size bytes means that the download broke off.
func (c *Client) Snapshot(ctx context.Context, name string) (*Snapshot, error) {
	response, err := c.do(ctx, request{method: http.MethodGet, path: databasePath(name, "/snapshot"), reads: true})
	if err != nil {
		return nil, err
	}
	if response.ContentLength < 0 {
		response.Body.Close()
		return nil, base.Errorf(base.KindUnavailable, "the node did not say how large the snapshot is")
	}
	return &Snapshot{Body: response.Body, Size: response.ContentLength, Position: response.Header.Get(httpapi.PositionHeader)}, nil
}

// SettleOrphans replays or discards writes that were undone.
func (c *Client) SettleOrphans(ctx context.Context, name string, which httpapi.OrphanChoice, replay bool) ([]httpapi.OrphanOutcome, error) {
	path := "/orphans/discard"
	if replay {
		path = "/orphans/replay"
	}
	var list []httpapi.OrphanOutcome
	err := c.json(ctx, http.MethodPost, databasePath(name, path), which, &list)
	return list, err
}

// Orphans lists writes that were undone when an old leader came back.
func (c *Client) Orphans(ctx context.Context, name string) ([]httpapi.Orphan, error) {
	var list []httpapi.Orphan
	err := c.json(ctx, http.MethodGet, databasePath(name, "/orphans"), nil, &list)
	return list, err
}

// ShowLog shows each the entries of the log of the first node that answers, and
// returns what else was found in it.
func (c *Client) ShowLog(ctx context.Context, name string, q httpapi.LogQuery, each func(httpapi.LogEntry) error) (*httpapi.LogReport, error) {
	query := url.Values{"table": q.Tables}
	if q.Mixed {
		query.Set("mixed", "true")
	}
	for key, n := range map[string]uint64{"from": uint64(q.From), "to": uint64(q.To), "limit": uint64(q.Limit)} {
		if n > 0 {
			query.Set(key, strconv.FormatUint(n, 10))
		}
	}
	response, err := c.do(ctx, request{method: http.MethodGet, path: databasePath(name, "/log"), query: query, reads: true})
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	for lines := json.NewDecoder(response.Body); ; {
		var line struct {
			httpapi.LogEntry
			httpapi.LogEnd
		}
		if err := lines.Decode(&line); err != nil {
			return nil, base.Errorf(base.KindUnavailable, "the log broke off: %w", err)
		}
		if line.End != nil {
			return line.End, nil
		}
		if err := each(line.LogEntry); err != nil {
			return nil, err
		}
	}
}

// VerifyLog has the first node that answers check its log.
func (c *Client) VerifyLog(ctx context.Context, name string) (*httpapi.LogReport, error) {
	report := new(httpapi.LogReport)
	return report, c.json(ctx, http.MethodGet, databasePath(name, "/log/verify"), nil, report)
}

// Hash has all replicas hash their tables and compares.
func (c *Client) Hash(ctx context.Context, name string) (*httpapi.HashReport, error) {
	report := new(httpapi.HashReport)
	return report, c.json(ctx, http.MethodGet, databasePath(name, "/hash"), nil, report)
}

// Query runs one statement. It is never sent twice unless it certainly was
// not run.
func (c *Client) Query(ctx context.Context, name string, q httpapi.QueryRequest) (*httpapi.QueryResult, error) {
	result := new(httpapi.QueryResult)
	return result, c.json(ctx, http.MethodPost, databasePath(name, "/query"), q, result)
}

// Choice lists the triggers that say what a database sends to partial replicas.
func (c *Client) Choice(ctx context.Context, name string) ([]httpapi.ChosenTrigger, error) {
	var list []httpapi.ChosenTrigger
	err := c.json(ctx, http.MethodGet, databasePath(name, "/choice"), nil, &list)
	return list, err
}

// Choose changes what it sends of one table.
func (c *Client) Choose(ctx context.Context, name string, choice httpapi.Choice) ([]httpapi.ChosenTrigger, error) {
	var list []httpapi.ChosenTrigger
	err := c.json(ctx, http.MethodPut, databasePath(name, "/choice"), choice, &list)
	return list, err
}

// ListNodes lists members as the control plane knows them.
func (c *Client) ListNodes(ctx context.Context) ([]httpapi.NodeStatus, error) {
	var list []httpapi.NodeStatus
	err := c.json(ctx, http.MethodGet, "/v1/nodes", nil, &list)
	return list, err
}

// MarkDead has others make up for a node that does not answer, until it is back.
func (c *Client) MarkDead(ctx context.Context, id base.NodeID) error {
	return c.json(ctx, http.MethodPost, "/v1/nodes/"+id.String()+"/dead", nil, nil)
}

// RemoveNode takes a node out of the cluster for ever.
func (c *Client) RemoveNode(ctx context.Context, id base.NodeID) error {
	return c.json(ctx, http.MethodDelete, "/v1/nodes/"+id.String(), nil, nil)
}

// FindNode resolves a node's name or id.
func (c *Client) FindNode(ctx context.Context, nameOrID string) (httpapi.NodeStatus, error) {
	nodes, err := c.ListNodes(ctx)
	if err != nil {
		return httpapi.NodeStatus{}, err
	}
	var found []httpapi.NodeStatus
	for _, n := range nodes {
		if n.ID == nameOrID {
			return n, nil
		}
		if n.Name == nameOrID {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return httpapi.NodeStatus{}, base.Errorf(base.KindNotFound, "no node has the name or id %s", nameOrID).
			WithHint("`skein node list` shows what there is.")
	}
	return httpapi.NodeStatus{}, base.Errorf(base.KindInvalid, "%d nodes are named %s; use the id", len(found), nameOrID)
}

// ListWebhooks lists the webhooks of a database, and how their deliveries fare.
func (c *Client) ListWebhooks(ctx context.Context, database string) ([]httpapi.Webhook, error) {
	var list []httpapi.Webhook
	err := c.json(ctx, http.MethodGet, databasePath(database, "/webhooks"), nil, &list)
	return list, err
}

// AddWebhook makes a webhook; its answer tells the secret.
func (c *Client) AddWebhook(ctx context.Context, database string, q httpapi.WebhookRequest) (httpapi.AddedWebhook, error) {
	var added httpapi.AddedWebhook
	err := c.json(ctx, http.MethodPost, databasePath(database, "/webhooks"), q, &added)
	return added, err
}

// DropWebhook drops a webhook.
func (c *Client) DropWebhook(ctx context.Context, database, name string) error {
	return c.json(ctx, http.MethodDelete, databasePath(database, "/webhooks/"+url.PathEscape(name)), nil, nil)
}

// ListUsers lists users with their grants.
func (c *Client) ListUsers(ctx context.Context) ([]httpapi.User, error) {
	var list []httpapi.User
	err := c.json(ctx, http.MethodGet, "/v1/users", nil, &list)
	return list, err
}

// CreateUser makes a user without rights.
func (c *Client) CreateUser(ctx context.Context, name, password string) error {
	return c.json(ctx, http.MethodPost, "/v1/users", httpapi.CreateUserRequest{Name: name, Password: password}, nil)
}

// SetPassword changes a user's password.
func (c *Client) SetPassword(ctx context.Context, name, password string) error {
	return c.json(ctx, http.MethodPut, userPath(name, "/password"), httpapi.CreateUserRequest{Password: password}, nil)
}

// DropUser removes a user.
func (c *Client) DropUser(ctx context.Context, name string) error {
	return c.json(ctx, http.MethodDelete, userPath(name, ""), nil, nil)
}

// Grant gives a right on a database; "*" is every database.
func (c *Client) Grant(ctx context.Context, user, database string, right httpapi.Right) error {
	return c.json(ctx, http.MethodPut, grantPath(user, database), httpapi.GrantRequest{Right: string(right)}, nil)
}

// Revoke takes all rights on a database away.
func (c *Client) Revoke(ctx context.Context, user, database string) error {
	return c.json(ctx, http.MethodDelete, grantPath(user, database), nil, nil)
}

func grantPath(user, database string) string {
	return userPath(user, fmt.Sprintf("/grants/%s", url.PathEscape(database)))
}
