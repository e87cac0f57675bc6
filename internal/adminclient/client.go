// Package adminclient is the Go client of a node's administration API.
//
// It owns how a request finds a node that can answer it: several addresses are
// tried in order, and a request goes to the next one only when it is certain
// that nothing was done. Errors are *base.Error values, those of the node with
// its own kind, outcome and hint.
//
// The wire types are those of package httpapi. It must not import the engine.
package adminclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/httpapi"
)

// Options of a client.
type Options struct {
	// URLs of nodes, tried in order. At least one is required.
	URLs []string
	// User and Password are sent as HTTP Basic; empty User sends none.
	User, Password string
	// HTTP makes the requests; nil makes one that dials within 3 seconds and
	// never follows redirects.
	HTTP *http.Client
	// Notice is given what a node has to add of an operation that is done: who has
	// not heard of it yet, for instance. Nil: nobody is.
	Notice func(text string)
}

// Client talks to a cluster. It is safe for concurrent use.
type Client struct {
	options Options
}

// maxAnswer bounds an answer that is read into memory.
const maxAnswer = 64 << 20

// New checks the addresses.
func New(o Options) (*Client, error) {
	if len(o.URLs) == 0 {
		return nil, base.Errorf(base.KindInvalid, "no node's address is given")
	}
	cleaned := make([]string, 0, len(o.URLs))
	for _, address := range o.URLs {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return nil, base.Errorf(base.KindInvalid, "address %q: want a URL such as http://127.0.0.1:8441", address)
		}
		cleaned = append(cleaned, strings.TrimRight(u.Scheme+"://"+u.Host+u.Path, "/"))
	}
	o.URLs = cleaned
	if o.HTTP == nil {
		o.HTTP = &http.Client{
			Transport: &http.Transport{
				DialContext:           (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
				TLSHandshakeTimeout:   5 * time.Second,
				ExpectContinueTimeout: 5 * time.Second,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return &Client{options: o}, nil
}

// Close frees idle connections.
func (c *Client) Close() { c.options.HTTP.CloseIdleConnections() }

// request is one call; body is made anew for every address that is tried.
type request struct {
	method string
	path   string // escaped
	query  url.Values
	body   func() (io.Reader, error) // nil: none
	size   int64                     // of body; 0: what the reader says
	reads  bool                      // changes nothing: may be sent again
}

// do sends r to the first node that takes it. The caller closes the body.
func (c *Client) do(ctx context.Context, r request) (*http.Response, error) {
	var failures []error
	for _, address := range c.options.URLs {
		response, sent, err := c.try(ctx, address, r)
		if err == nil {
			return response, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil || !tryNext(err, sent && !r.reads) {
			break
		}
	}
	return nil, c.summary(failures)
}

// tryNext says whether another node may be asked: nothing was done, and this
// node could not answer for want of reach, leader or readiness.
func tryNext(err error, mayHaveDone bool) bool {
	e := base.AsError(err)
	switch e.Kind {
	case base.KindUnavailable, base.KindNoLeader, base.KindNotLeader, base.KindShutdown, base.KindBusy, base.KindTrimmed:
		return !mayHaveDone && e.Outcome != base.Indeterminate && e.Outcome != base.Done
	}
	return false
}

// summary of several failures has the kind of the last, which got furthest or
// as far as any, and names them all.
func (c *Client) summary(failures []error) error {
	last := base.AsError(failures[len(failures)-1])
	if len(failures) == 1 {
		return last
	}
	lines := make([]string, len(failures))
	for i, err := range failures {
		lines[i] = err.Error()
	}
	whole := *last
	whole.Op, whole.Message, whole.Err = "", fmt.Sprintf("no node could do it:\n  %s", strings.Join(lines, "\n  ")), last
	return &whole
}

// try sends r to one address. sent says that the node may have got it.
func (c *Client) try(ctx context.Context, address string, r request) (response *http.Response, sent bool, err error) {
	var body io.Reader
	if r.body != nil {
		if body, err = r.body(); err != nil {
			return nil, false, err
		}
	}
	target := address + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, false, base.Errorf(base.KindInvalid, "%w", err)
	}
	if r.size > 0 {
		req.ContentLength = r.size
		req.Header.Set("Expect", "100-continue") // A refusal comes before gigabytes are sent.
	}
	if c.options.User != "" {
		req.SetBasicAuth(c.options.User, c.options.Password)
	}
	response, err = c.options.HTTP.Do(req)
	if err != nil {
		return c.unreached(ctx, address, r, err)
	}
	if response.StatusCode >= 300 {
		defer response.Body.Close()
		// An answer means that the node speaks for the outcome itself.
		return nil, false, readError(address, response)
	}
	if c.options.Notice != nil {
		for _, text := range response.Header.Values(httpapi.NoticeHeader) {
			c.options.Notice(text)
		}
	}
	return response, true, nil
}

// unreached explains a request without an answer. Only a failed dial is sure
// not to have reached the node.
func (c *Client) unreached(ctx context.Context, address string, r request, err error) (*http.Response, bool, error) {
	if ctx.Err() != nil {
		e := base.Errorf(base.KindCanceled, "%s: %w", address, context.Cause(ctx))
		if !r.reads {
			e.Outcome = base.Indeterminate
		}
		return nil, true, e
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		e := base.Errorf(base.KindUnavailable, "%s: %w", address, op.Err)
		if errors.Is(err, syscall.ECONNREFUSED) {
			e = base.Errorf(base.KindUnavailable, "%s: nothing listens there", address).
				WithHint("Is the node running? `skein dev` starts a cluster on this machine; --url or SKEIN_URL names another.")
		}
		return nil, false, e
	}
	var inner *url.Error
	if errors.As(err, &inner) {
		err = inner.Err
	}
	e := base.Errorf(base.KindUnavailable, "%s: the connection broke before an answer: %w", address, err)
	if !r.reads {
		e.Outcome = base.Indeterminate
	}
	return nil, true, e
}

// readError turns an answer that is no success into an error.
func readError(address string, response *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	var body httpapi.Error
	if err != nil || json.Unmarshal(data, &body) != nil || body.Kind == "" {
		return base.Errorf(base.KindUnavailable, "%s answered %s, and not as a skein node does", address, response.Status).
			WithHint("Does the URL name a node's HTTP address?")
	}
	e := &base.Error{Kind: body.Kind, Message: body.Message, Outcome: body.Outcome, Hint: body.Hint, SQLState: body.SQLState, Operation: body.Operation}
	if id, err := base.ParseNodeID(body.Leader); err == nil {
		e.Leader = id
	}
	return e
}

// json makes a call whose request and answer are JSON; in or out may be nil.
func (c *Client) json(ctx context.Context, method, path string, in, out any) error {
	r := request{method: method, path: path, reads: method == http.MethodGet}
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return base.Errorf(base.KindInternal, "encode request: %w", err)
		}
		r.body = func() (io.Reader, error) { return bytes.NewReader(data), nil }
	}
	response, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err == nil && out != nil {
		err = json.Unmarshal(data, out)
	}
	if err != nil {
		e := base.Errorf(base.KindUnavailable, "read the answer of %s: %w", response.Request.URL.Host, err)
		if !r.reads {
			e.Outcome = base.Done // The status said so; only the details are lost.
		}
		return e
	}
	return nil
}
