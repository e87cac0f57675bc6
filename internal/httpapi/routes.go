package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/skeindb/skein/internal/base"
)

// handle answers one request: either it writes the answer itself and returns
// nil, nil, or it returns what to send as JSON, or an error.
type handle func(w http.ResponseWriter, r *http.Request) (any, error)

// access says who may call a route before its handler looks closer.
type access int

const (
	open   access = iota // anyone who can connect
	signed               // a known user, or trusted
)

// Time that a route gets.
type pace int

const (
	quick  pace = iota // OperationTimeout
	query              // five times that
	stream             // as long as bytes move
	feed               // as long as the client is there; these do not count among the others
)

func (a *API) routes() http.Handler {
	mux := http.NewServeMux()
	add := func(pattern string, who access, p pace, h handle) {
		mux.Handle(pattern, a.wrap(pattern, who, p, h))
	}
	add("GET /{$}", open, quick, a.frontPage)
	add("GET /healthz", open, quick, a.health)
	add("GET /readyz", open, quick, a.ready)
	mux.Handle("GET /metrics", a.wrap("GET /metrics", a.metricsAccess(), quick, a.showMetrics()))

	add("GET /v1/status", signed, quick, a.status)
	add("GET /v1/status/local", signed, quick, a.localStatus)
	add("GET /v1/databases", signed, quick, a.listDatabases)
	add("POST /v1/databases", signed, query, a.createDatabase)
	add("PATCH /v1/databases/{name}", signed, quick, a.alterDatabase)
	add("DELETE /v1/databases/{name}", signed, quick, a.dropDatabase)
	add("POST /v1/databases/{name}/import", signed, stream, a.importDatabase)
	add("POST /v1/databases/{name}/switchover", signed, quick, a.switchover)
	add("POST /v1/databases/{name}/failover", signed, quick, a.failover)
	add("GET /v1/databases/{name}/snapshot", signed, stream, a.snapshot)
	add("GET /v1/databases/{name}/orphans", signed, quick, a.orphans)
	add("POST /v1/databases/{name}/orphans/replay", signed, query, a.settleOrphans(true))
	add("POST /v1/databases/{name}/orphans/discard", signed, query, a.settleOrphans(false))
	add("GET /v1/databases/{name}/changes", signed, feed, a.changes)
	add("GET /v1/databases/{name}/webhooks", signed, quick, a.listWebhooks)
	add("POST /v1/databases/{name}/webhooks", signed, quick, a.addWebhook)
	add("DELETE /v1/databases/{name}/webhooks/{webhook}", signed, quick, a.dropWebhook)
	add("GET /v1/databases/{name}/log", signed, stream, a.showLog)
	add("GET /v1/databases/{name}/log/verify", signed, stream, a.verifyLog)
	add("GET /v1/databases/{name}/hash", signed, query, a.hash)
	add("GET /v1/databases/{name}/choice", signed, quick, a.showChoice)
	add("PUT /v1/databases/{name}/choice", signed, query, a.choose)
	add("POST /v1/databases/{name}/query", signed, query, a.query)
	add("GET /v1/databases/{name}/operations/{operation}", signed, quick, a.outcome)
	add("GET /v1/nodes", signed, quick, a.listNodes)
	add("DELETE /v1/nodes/{id}", signed, quick, a.changeNode(a.options.Node.RemoveNode))
	add("POST /v1/nodes/{id}/dead", signed, quick, a.changeNode(a.options.Node.MarkDead))
	add("GET /v1/users", signed, quick, a.listUsers)
	add("POST /v1/users", signed, quick, a.createUser)
	add("DELETE /v1/users/{user}", signed, quick, a.dropUser)
	add("PUT /v1/users/{user}/password", signed, quick, a.setPassword)
	add("PUT /v1/users/{user}/grants/{database}", signed, quick, a.grant)
	add("DELETE /v1/users/{user}/grants/{database}", signed, quick, a.revoke)
	mux.Handle("/", a.wrap("other", open, quick, a.unknown(mux)))
	return mux
}

// wrap puts the same things around every route: the bound on requests, the
// site guard, who asks, time limits, metrics, and errors as JSON.
func (a *API) wrap(route string, who access, p pace, h handle) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := a.env.Clock.Now()
		out := &answer{ResponseWriter: w}
		defer func() { a.metrics.observe(route, out.status, a.env.Clock.Now().Sub(started)) }()
		slots := a.running
		if p == feed {
			slots = a.feeding
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			a.fail(out, r, base.Errorf(base.KindBusy, "%d requests run already", cap(slots)))
			return
		}
		a.metrics.running.Inc()
		defer a.metrics.running.Dec()
		defer a.recovered(out, r)
		ctx, cancel := a.limit(out, r, p)
		defer cancel()
		ctx, out.notices = base.WithNotices(ctx)
		r = r.WithContext(ctx)
		result, err := a.admit(out, r, who, h)
		if err != nil {
			a.fail(out, r, err)
		} else if result != nil {
			send(out, http.StatusOK, result)
		}
	})
}

func (a *API) admit(w http.ResponseWriter, r *http.Request, who access, h handle) (any, error) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := a.checkSite(r); err != nil {
		return nil, err
	}
	if who == signed {
		id, err := a.identify(r)
		if err != nil {
			return nil, err
		}
		r = r.WithContext(context.WithValue(r.Context(), identityKey{}, id))
	}
	return h(w, r)
}

// limit sets the deadlines of a request. Streams move theirs on as bytes move.
//
// The read deadline must not end before the work does: the server watches the
// connection while a handler runs, and takes a read that times out for a
// client that has gone.
func (a *API) limit(w http.ResponseWriter, r *http.Request, p pace) (context.Context, context.CancelFunc) {
	c := http.NewResponseController(w)
	if p == stream || p == feed {
		_ = c.SetReadDeadline(time.Time{})  // The last request on this connection left its own.
		_ = c.SetWriteDeadline(time.Time{}) // Not every test double has deadlines.
		return context.WithCancel(r.Context())
	}
	total := a.options.OperationTimeout
	if p == query {
		total *= 5
	}
	end := a.env.Clock.Now().Add(total + a.options.StallTimeout)
	_ = c.SetReadDeadline(end)
	_ = c.SetWriteDeadline(end)
	return a.env.Clock.WithTimeout(r.Context(), total,
		base.Errorf(base.KindTimeout, "the operation took longer than %s", total).WithOutcome(base.Indeterminate))
}

// recovered turns a panic of a handler into an internal error, and logs it.
func (a *API) recovered(w *answer, r *http.Request) {
	cause := recover()
	if cause == nil {
		return
	}
	if cause == http.ErrAbortHandler {
		panic(cause)
	}
	a.log.Error("a request handler panicked", "path", r.URL.Path, "panic", cause, "stack", string(debug.Stack()))
	a.fail(w, r, &base.Error{Kind: base.KindInternal, Message: fmt.Sprint("panic: ", cause), Outcome: base.Indeterminate})
}

// NoticeHeader carries, once for each, what there is to add of an operation that
// is done: who has not heard of it yet, for instance.
const NoticeHeader = "Skein-Notice"

// answer remembers whether and with what status an answer has begun.
type answer struct {
	http.ResponseWriter
	status  int
	notices *base.Notices // nil before the request was let in
}

// Unwrap lets http.ResponseController reach the connection.
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *answer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		if w.notices != nil {
			for _, text := range w.notices.List() {
				w.Header().Add(NoticeHeader, text)
			}
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *answer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// fail sends an error. When the answer has begun nothing can be said any more
// but by breaking the connection, so that no client takes a part for the whole.
func (a *API) fail(w *answer, r *http.Request, err error) {
	if w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	e := a.explain(r, err)
	if e.Kind == base.KindInternal {
		a.log.Error("a request failed", "path", r.URL.Path, "error", err)
	}
	if e.Kind == base.KindUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="skein", charset="UTF-8"`)
	}
	if e.HTTPStatus() == http.StatusServiceUnavailable || e.HTTPStatus() == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
	send(w, e.HTTPStatus(), errorBody(e))
}

func errorBody(e *base.Error) Error {
	outcome := e.Outcome
	if outcome == "" {
		outcome = base.NotDone
	}
	return Error{
		Kind: e.Kind, Message: e.Error(), Outcome: outcome, Hint: e.Hint, SQLState: e.State(), Leader: IDString(e.Leader),
		Operation: e.Operation,
	}
}

// explain gives an error its kind. A bare context error takes the cause of the
// request's context; what was under way then may or may not have happened.
func (a *API) explain(r *http.Request, err error) *base.Error {
	if e, ok := errors.AsType[*base.Error](err); ok {
		return e
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return base.Errorf(base.KindTooLarge, "the request's body is larger than %d bytes", tooLarge.Limit)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		if e, ok := errors.AsType[*base.Error](context.Cause(r.Context())); ok {
			ended := *e // The cause is shared; what is said of this request is not.
			ended.Outcome = base.Indeterminate
			return &ended
		}
		return base.Errorf(base.KindCanceled, "%w", err).WithOutcome(base.Indeterminate)
	}
	return base.AsError(err)
}

func send(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	data, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Errorf("marshal %T: %w", body, err)) // A type of ours that cannot be marshalled is a bug.
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // A client that has gone needs no answer.
}

// readJSON reads a small JSON body strictly.
func readJSON(w http.ResponseWriter, r *http.Request, limit int64, to any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return tooLarge
		}
		return base.Errorf(base.KindInvalid, "read the request's body: %v", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(to); err != nil {
		if e, ok := errors.AsType[*base.Error](err); ok {
			return e
		}
		return base.Errorf(base.KindInvalid, "the request's body: %v", err)
	}
	if dec.More() {
		return base.Errorf(base.KindInvalid, "the request's body goes on after the JSON object")
	}
	return nil
}

func (a *API) unknown(mux *http.ServeMux) handle {
	return func(w http.ResponseWriter, r *http.Request) (any, error) {
		var allowed []string
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			probe := &http.Request{Method: method, URL: r.URL, Host: r.Host}
			if _, pattern := mux.Handler(probe); pattern != "/" && pattern != "" {
				allowed = append(allowed, method)
			}
		}
		if len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			return nil, base.Errorf(base.KindInvalid, "%s %s: the method must be %s", r.Method, r.URL.Path, strings.Join(allowed, " or "))
		}
		return nil, base.Errorf(base.KindNotFound, "%s: no such page", r.URL.Path).WithHint("GET / lists what there is.")
	}
}

func (a *API) metricsAccess() access {
	if a.options.OpenMetrics {
		return open
	}
	return signed
}

func (a *API) showMetrics() handle {
	h := promhttp.HandlerFor(a.options.Registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
	return func(w http.ResponseWriter, r *http.Request) (any, error) {
		if !a.options.OpenMetrics {
			if err := a.need(r.Context(), "*", RightRead); err != nil {
				return nil, err
			}
		}
		h.ServeHTTP(w, r)
		return nil, nil
	}
}

func (a *API) health(w http.ResponseWriter, r *http.Request) (any, error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "ok\n")
	return nil, nil
}

func (a *API) ready(w http.ResponseWriter, r *http.Request) (any, error) {
	ready := a.options.Node.Ready(r.Context())
	if ready.Reasons == nil {
		ready.Reasons = []string{}
	}
	if !ready.Ready {
		send(w, http.StatusServiceUnavailable, ready)
		return nil, nil
	}
	return ready, nil
}

var frontPage = template.Must(template.New("front").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>skein</title>
<body style="font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:3em auto;padding:0 1em">
<h1>skein {{.}}</h1>
<p>This is one node of a cluster that replicates SQLite databases.</p>
<ul>
<li><a href="/v1/status">/v1/status</a>: the cluster, as JSON</li>
<li><a href="/v1/status/local">/v1/status/local</a>: this node alone</li>
<li><a href="/v1/databases">/v1/databases</a>, <a href="/v1/nodes">/v1/nodes</a>, <a href="/v1/users">/v1/users</a></li>
<li><a href="/metrics">/metrics</a>: for Prometheus</li>
<li><a href="/healthz">/healthz</a>: the process lives; <a href="/readyz">/readyz</a>: it serves</li>
</ul>
<p>A query over HTTP:</p>
<pre>curl -d '{"sql":"select ?1 + 1","args":[41]}' \
  http://HOST/v1/databases/NAME/query</pre>
</body></html>
`))

func (a *API) frontPage(w http.ResponseWriter, r *http.Request) (any, error) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	return nil, frontPage.Execute(w, a.options.Version)
}
