package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
)

// The headers of a delivery.
const (
	NameHeader      = "Skein-Webhook"
	DatabaseHeader  = "Skein-Database"
	EventsHeader    = "Skein-Events"    // how many lines the body has
	TimestampHeader = "Skein-Timestamp" // Unix seconds, when it was sent
	SignatureHeader = "Skein-Signature" // what Sign returns
)

const (
	postTimeout = 30 * time.Second
	maxAnswer   = 64 << 10 // of an answer that are read, so that the connection can be used again
)

// NewClient makes the client that deliveries are sent with. It follows no
// redirect: a destination must not send this node on to where no administrator
// has sent it.
func NewClient(e *env.Env) *http.Client {
	// A request that is given up leaves its dialing behind.
	dial := func(ctx context.Context, _, address string) (net.Conn, error) {
		ctx, cancel := e.Clock.WithTimeout(ctx, postTimeout, base.Errorf(base.KindTimeout, "no connection within %v", postTimeout))
		defer cancel()
		return e.Net.Dial(ctx, address)
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: dial, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: postTimeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Sign is the signature of a body that was sent at a time: HMAC-SHA256, under the
// webhook's secret, of the timestamp, a point and the body.
func Sign(secret, timestamp string, body []byte) string {
	h := hmac.New(sha256.New, []byte(secret))
	_, _ = io.WriteString(h, timestamp+".") // A hash takes everything.
	_, _ = h.Write(body)
	return "sha256=" + hex.EncodeToString(h.Sum(nil))
}

// post sends one batch; nil when it was answered with success.
func (d *Delivery) post(ctx context.Context, body []byte, events int) error {
	hook := d.options.Hook
	ctx, cancel := d.env.Clock.WithTimeout(ctx, postTimeout, base.Errorf(base.KindTimeout, "no answer within %v", postTimeout))
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("deliver: %w", err)
	}
	timestamp := strconv.FormatInt(d.env.Clock.Now().Unix(), 10)
	for name, value := range map[string]string{
		"Content-Type": "application/x-ndjson", "User-Agent": "skein", NameHeader: hook.Name, DatabaseHeader: hook.Database,
		EventsHeader: strconv.Itoa(events), TimestampHeader: timestamp, SignatureHeader: Sign(hook.Secret, timestamp, body),
	} {
		r.Header.Set(name, value)
	}
	answer, err := d.options.HTTP.Do(r)
	if err != nil {
		return fmt.Errorf("deliver: %w", err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer)) // What it says does not matter.
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return base.Errorf(base.KindUnavailable, "deliver: the destination answered %s", answer.Status)
	}
	return nil
}
