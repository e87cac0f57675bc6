package wire

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/transport"
)

const (
	filePath    = "/file/"
	helloHeader = "Skein-Hello"
	maxAnswer   = 64 << 10 // of an error's JSON
)

type connKey struct{}

func (t *Transport) newWebServer() *http.Server {
	return &http.Server{
		Handler:           http.HandlerFunc(t.serveFile),
		ReadHeaderTimeout: handshakeTimeout,
		IdleTimeout:       handshakeTimeout,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(t.env.Log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return t.ctx },
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn.(*stallGuard).Conn)
		},
		// Close waits for connections, since net/http does not.
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				t.tasks.Add(1)
			case http.StateClosed, http.StateHijacked:
				t.tasks.Done()
			}
		},
	}
}

// guardedDoor wraps what net/http serves, so that it takes no connection for
// one of its own TLS and a transfer that makes no progress ends.
type guardedDoor struct {
	*handover
	clock env.Clock
}

func (g guardedDoor) Accept() (net.Conn, error) {
	conn, err := g.handover.Accept()
	if err != nil {
		return nil, err
	}
	return &stallGuard{Conn: conn, clock: g.clock, idleReads: true}, nil
}

// serveFile answers GET with a file, or a part of one.
func (t *Transport) serveFile(w http.ResponseWriter, r *http.Request) {
	err := t.tryServeFile(w, r)
	if err == nil {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(transport.Answer(err).HTTPStatus())
	_, _ = w.Write(encodeFailure(err)) // Who asked may have gone.
}

func (t *Transport) tryServeFile(w http.ResponseWriter, r *http.Request) error {
	from, err := t.whoAsks(r)
	if err != nil {
		t.refusals.report(r.RemoteAddr, "refused a request for a file", err)
		return err
	}
	name, ok := strings.CutPrefix(r.URL.Path, filePath)
	if !ok || r.Method != http.MethodGet {
		return base.Errorf(base.KindNotFound, "%s %s: only files are served here", r.Method, r.URL.Path)
	}
	if err := checkFileName(name); err != nil {
		return err
	}
	open, err := t.ForFile(t.options.Self, name)
	if err != nil {
		return err
	}
	f, size, err := open(r.Context(), from, name)
	if err != nil {
		return err
	}
	defer f.Close() // It was only read.
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(f, 0, size))
	return nil
}

// whoAsks returns the node that a request comes from. With TLS the
// certificate says it and the hello may be missing, so that an ordinary
// client with a node's certificate can read files too.
func (t *Transport) whoAsks(r *http.Request) (base.NodeID, error) {
	c, ok := r.Context().Value(connKey{}).(*serverConn)
	if !ok {
		return 0, errors.New("request without a connection")
	}
	text := r.Header.Get(helloHeader)
	if text == "" && c.certified != 0 {
		return c.certified, nil
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return 0, errHello
	}
	h, err := decodeHello(b)
	if err != nil {
		return 0, base.Errorf(base.KindWrongCluster, "%w", err)
	}
	return h.from, t.self().accept(h, c.certified, classFile)
}

func checkFileName(name string) error {
	if !fs.ValidPath(name) || len(name) > transport.MaxName {
		return base.Errorf(base.KindInvalid, "%q is no name of a file", name)
	}
	return nil
}

// FetchFile implements transport.Transport. The body reports a transfer that
// was cut off as io.ErrUnexpectedEOF or as the connection's error; whoever
// reads it continues with another FetchFile from where it stopped.
func (t *Transport) FetchFile(ctx context.Context, from base.NodeID, name string, offset int64) (io.ReadCloser, int64, error) {
	op := "fetch " + name
	if offset < 0 {
		return nil, 0, base.Errorf(base.KindInvalid, "%s: offset %d", op, offset)
	}
	if err := checkFileName(name); err != nil {
		return nil, 0, err
	}
	p, err := t.knownPeer(op, from)
	if err != nil {
		return nil, 0, err
	}
	d, err := t.beginDownload(ctx, p)
	if err != nil {
		return nil, 0, transport.NotDelivered(op, from, err)
	}
	size, err := d.request(t.newHello(classFile, from), name, offset)
	if err != nil {
		d.Close()
		if e, ok := errors.AsType[*base.Error](err); ok {
			return nil, 0, e
		}
		return nil, 0, transport.Interrupted(ctx, op, from, err).WithOutcome(base.NotDone)
	}
	return d, size, nil
}

// download is a file on its way, on a connection of its own.
type download struct {
	ctx  context.Context // of whoever fetches
	conn net.Conn
	body io.Reader
	stop []func() bool
}

func (t *Transport) beginDownload(ctx context.Context, p *peer) (*download, error) {
	dialing, cancel := t.env.Clock.WithTimeout(ctx, dialTimeout, errDialTimeout)
	defer cancel()
	conn, _, err := t.connect(dialing, p.address, p.id, protocolFile)
	if err != nil {
		return nil, causeOf(dialing, err)
	}
	d := &download{ctx: ctx, conn: &stallGuard{Conn: conn, clock: t.env.Clock}}
	for _, end := range []context.Context{ctx, p.ctx} {
		d.stop = append(d.stop, context.AfterFunc(end, func() { conn.Close() }))
	}
	return d, nil
}

// request asks for the file and returns its whole size.
func (d *download) request(h hello, name string, offset int64) (int64, error) {
	target := url.URL{Scheme: "http", Host: "peer", Path: filePath + name}
	request, err := http.NewRequest(http.MethodGet, target.String(), nil)
	if err != nil {
		return 0, fmt.Errorf("make request: %w", err)
	}
	request.Header.Set(helloHeader, base64.StdEncoding.EncodeToString(h.encode()))
	request.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	if err := request.Write(d.conn); err != nil {
		return 0, err
	}
	response, err := http.ReadResponse(bufio.NewReaderSize(d.conn, bufferSize), request)
	if err != nil {
		return 0, err
	}
	size, err := answeredSize(response, offset)
	d.body = response.Body
	return size, err
}

func answeredSize(r *http.Response, offset int64) (int64, error) {
	switch r.StatusCode {
	case http.StatusOK:
		if offset == 0 && r.ContentLength >= 0 {
			return r.ContentLength, nil
		}
	case http.StatusPartialContent:
		var first, last, size int64
		n, _ := fmt.Sscanf(r.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &size)
		if n == 3 && first == offset && r.ContentLength == size-offset {
			return size, nil
		}
	case http.StatusRequestedRangeNotSatisfiable:
		return sizeAtEnd(r, offset)
	default:
		b, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
		if err != nil {
			return 0, err
		}
		if e, err := decodeFailure(b); err == nil {
			return 0, e
		}
	}
	return 0, fmt.Errorf("the peer's answer %q makes no sense", r.Status)
}

// sizeAtEnd reads the answer to a request that starts at or after the end.
func sizeAtEnd(r *http.Response, offset int64) (int64, error) {
	text, _ := strings.CutPrefix(r.Header.Get("Content-Range"), "bytes */")
	size, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return 0, fmt.Errorf("the peer's answer names no size: %w", err)
	case offset > size:
		return 0, base.Errorf(base.KindInvalid, "offset %d is after the file's end at %d", offset, size)
	}
	r.Body = http.NoBody
	return size, nil
}

// Read implements io.Reader.
func (d *download) Read(b []byte) (int, error) {
	if d.ctx.Err() != nil {
		return 0, context.Cause(d.ctx)
	}
	n, err := d.body.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		err = causeOf(d.ctx, err)
	}
	return n, err
}

// Close implements io.Closer.
func (d *download) Close() error {
	for _, stop := range d.stop {
		stop()
	}
	return d.conn.Close()
}

// stallGuard closes a connection when one write or read takes too long.
type stallGuard struct {
	net.Conn
	clock env.Clock
	// idleReads may last: net/http, serving, reads while it writes a long
	// answer, and has its own timeouts for requests.
	idleReads bool
}

// Write implements net.Conn.
func (g *stallGuard) Write(b []byte) (int, error) {
	defer g.clock.AfterFunc(stallTimeout, func() { g.Conn.Close() }).Stop()
	return g.Conn.Write(b)
}

// Read implements net.Conn.
func (g *stallGuard) Read(b []byte) (int, error) {
	if !g.idleReads {
		defer g.clock.AfterFunc(stallTimeout, func() { g.Conn.Close() }).Stop()
	}
	return g.Conn.Read(b)
}
