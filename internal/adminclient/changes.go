package adminclient

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/httpapi"
)

// ChangesQuery says what a stream of changes is to hold.
type ChangesQuery struct {
	Offset    string // go on behind it; "" begins
	Now       bool   // begin with the first change from now on, without a snapshot
	Tables    []string
	Chosen    bool   // what triggers have sent, instead of all changes
	Consumer  string // a name for status and metrics
	Heartbeat time.Duration
}

// Changes calls each for every event of a stream, heartbeats included, from the
// first node that serves it, until the stream breaks, each fails, or ctx is
// done. It does not connect again: go on with the last event's offset.
func (c *Client) Changes(ctx context.Context, name string, q ChangesQuery, each func(changefeed.Envelope) error) error {
	query := url.Values{"table": q.Tables}
	if q.Offset != "" {
		query.Set("offset", q.Offset)
	}
	if q.Now {
		query.Set("from", "now")
	}
	if q.Chosen {
		query.Set("chosen", "true")
	}
	if q.Consumer != "" {
		query.Set("consumer", q.Consumer)
	}
	if q.Heartbeat > 0 {
		query.Set("heartbeat", q.Heartbeat.String())
	}
	response, err := c.do(ctx, request{method: http.MethodGet, path: databasePath(name, "/changes"), query: query, reads: true})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	for lines := json.NewDecoder(response.Body); ; {
		var line struct {
			changefeed.Envelope
			httpapi.ChangesError
		}
		if err := lines.Decode(&line); err != nil {
			if ctx.Err() != nil {
				return base.Errorf(base.KindCanceled, "%w", context.Cause(ctx))
			}
			return base.Errorf(base.KindUnavailable, "the stream of %s broke: %w", response.Request.URL.Host, err)
		}
		if e := line.Error; e.Kind != "" {
			return &base.Error{Kind: e.Kind, Message: e.Message, Outcome: e.Outcome, Hint: e.Hint}
		}
		if err := each(line.Envelope); err != nil {
			return err
		}
	}
}
