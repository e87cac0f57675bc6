package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/env"
)

// Limits of a stream of changes.
const (
	maxFeeds         = 64 // at once, on one node
	defaultHeartbeat = 10 * time.Second
	minHeartbeat     = 100 * time.Millisecond
	maxHeartbeat     = time.Minute
	// feedStall is how long a consumer may take no byte before the connection
	// is given up. Until then it is only held back.
	feedStall = 10 * time.Minute
)

// changes streams the changes of a database until the client goes, as
// server-sent events or as one JSON object a line.
func (a *API) changes(w http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := a.need(r.Context(), name, RightRead); err != nil {
		return nil, err
	}
	q, heartbeat, err := changesRequest(r)
	if err != nil {
		return nil, err
	}
	out := &changeStream{
		clock: a.env.Clock, database: name, node: a.options.Node.Self(), writer: w, control: http.NewResponseController(w),
		events: strings.Contains(r.Header.Get("Accept"), "text/event-stream"),
	}
	out.buffer = bufio.NewWriterSize(w, 64<<10)
	err = a.options.Node.Changes(r.Context(), name, q, heartbeat, out)
	if !out.begun {
		return nil, err
	}
	if _, said := errors.AsType[*base.Error](context.Cause(r.Context())); r.Context().Err() != nil && !said {
		return nil, nil // The client has gone.
	}
	// The answer has begun: the last event says why there are no more.
	return nil, out.end(a.explain(r, err))
}

func changesRequest(r *http.Request) (q changefeed.Request, heartbeat time.Duration, err error) {
	values := r.URL.Query()
	text := values.Get("offset")
	if last := r.Header.Get("Last-Event-ID"); last != "" { // A browser that connects again.
		text = last
	}
	if q.From, err = changefeed.ParseOffset(text); err != nil {
		return q, 0, err
	}
	switch from := values.Get("from"); from {
	case "", "snapshot":
	case "now":
		q.Now = true
	default:
		return q, 0, base.Errorf(base.KindInvalid, "from %q: want snapshot or now", from)
	}
	q.Tables = values["table"]
	switch chosen := values.Get("chosen"); chosen {
	case "", "false":
	case "true":
		q.Chosen = true
	default:
		return q, 0, base.Errorf(base.KindInvalid, "chosen %q: want true or false", chosen)
	}
	q.Name = values.Get("consumer")
	if q.Name == "" {
		q.Name = "http " + r.RemoteAddr
	}
	if len(q.Name) > 100 {
		return q, 0, base.Errorf(base.KindInvalid, "a consumer's name has at most 100 bytes")
	}
	heartbeat = defaultHeartbeat
	if text := values.Get("heartbeat"); text != "" {
		heartbeat, err = time.ParseDuration(text)
		if err != nil || heartbeat < minHeartbeat || heartbeat > maxHeartbeat {
			return q, 0, base.Errorf(base.KindInvalid, "heartbeat %q: want a duration from %v to %v", text, minHeartbeat, maxHeartbeat)
		}
	}
	return q, heartbeat, nil
}

// changeStream is the sink of one client. The connection holds it back when
// the client does not read.
type changeStream struct {
	clock          env.Clock
	database, node string
	writer         http.ResponseWriter
	control        *http.ResponseController
	buffer         *bufio.Writer
	events         bool // server-sent events
	begun          bool
}

func (s *changeStream) begin() {
	if s.begun {
		return
	}
	s.begun = true
	s.writer.Header().Set("Content-Type", typeNDJSON)
	if s.events {
		s.writer.Header().Set("Content-Type", "text/event-stream")
	}
	s.writer.Header().Set("X-Accel-Buffering", "no") // A proxy that collects would hold events back.
	s.writer.WriteHeader(http.StatusOK)
}

// Send implements changefeed.Sink.
func (s *changeStream) Send(e *changefeed.Event) error {
	kind := "change"
	switch e.Op {
	case changefeed.Heartbeat, changefeed.Schema:
		kind = string(e.Op)
	}
	return s.write(kind, e.Offset.String(), changefeed.NewEnvelope(e, s.database, s.node, s.clock.Now()))
}

func (s *changeStream) write(kind, id string, body any) error {
	s.begin()
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	_ = s.control.SetWriteDeadline(s.clock.Now().Add(feedStall)) // Not every test double has deadlines.
	if !s.events {
		_, err = s.buffer.Write(append(data, '\n'))
		return err
	}
	if id != "" {
		id = "id: " + id + "\n"
	}
	_, err = fmt.Fprintf(s.buffer, "event: %s\n%sdata: %s\n\n", kind, id, data)
	return err
}

// Flush implements changefeed.Sink.
func (s *changeStream) Flush() error {
	s.begin()
	_ = s.control.SetWriteDeadline(s.clock.Now().Add(feedStall))
	if err := s.buffer.Flush(); err != nil {
		return err
	}
	return s.control.Flush()
}

// ChangesError is the last event of a stream that could not go on.
type ChangesError struct {
	Error Error `json:"error"`
}

func (s *changeStream) end(e *base.Error) error {
	if err := s.write("error", "", ChangesError{Error: errorBody(e)}); err != nil {
		return nil // The client has gone; nobody is there to be told.
	}
	_ = s.Flush()
	return nil
}
