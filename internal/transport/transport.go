// Package transport carries messages, streams and files between nodes.
//
// It knows nodes by id, authenticates them (mTLS: the certificate names
// cluster and node), bounds every queue and gives every call a deadline. It
// does not know what it carries. It owns the contract alone: package wire keeps
// it over the network, package mem in memory, and package transporttest tests
// both. It must not import either of them.
package transport

import (
	"context"
	"io"

	"github.com/skeindb/skein/internal/base"
)

// The bounds of what is carried. What is longer is refused with KindTooLarge
// before any of it is sent.
const (
	MaxControlMessage = 1 << 20
	MaxMessage        = 16 << 20 // requests, replies, headers and stream messages
	MaxName           = 255      // methods, services and file names
)

// CheckSize says that what op is about to send is too large.
func CheckSize(op string, size, limit int) error {
	if size > limit {
		return base.Errorf(base.KindTooLarge, "%s: a message of %d bytes is over the limit of %d", op, size, limit)
	}
	return nil
}

// CheckOpening says what is wrong with the name or the first message of a call
// or a stream.
func CheckOpening(op, name string, first []byte) error {
	if name == "" || len(name) > MaxName {
		return base.Errorf(base.KindInvalid, "%s: a name has 1 to %d bytes, %q has %d", op, MaxName, name, len(name))
	}
	return CheckSize(op, len(first), MaxMessage)
}

// Bootstrapper is the half of a transport that a joining node needs: it knows
// where a member listens but not who that is.
type Bootstrapper interface {
	// CallAddress is Transport.Call to whichever node of the cluster listens
	// at address, and says which one answered. The receiver's handler sees
	// the caller's id although it may never have heard of it.
	CallAddress(ctx context.Context, address, method string, request []byte) (from base.NodeID, reply []byte, err error)
}

// Transport is one node's view of its peers. It is safe for concurrent use.
// Slices passed to it are the caller's again when the method returns.
type Transport interface {
	Self() base.NodeID

	// SetPeer tells where a node is reached; an empty address forgets it.
	SetPeer(id base.NodeID, address string)

	// SendControl sends a small message (at most 1 MiB), best effort and in
	// order. It never blocks: when the peer's queue is full or the peer is
	// unreachable the message is dropped. Duplicates do not occur.
	SendControl(to base.NodeID, msg []byte)
	// HandleControl sets the receiver of control messages. It must return
	// quickly: it runs on the connection's reader.
	HandleControl(ControlHandler)

	// Call makes one request. ctx must have a deadline. When the peer answered
	// with an error, that *base.Error comes back with its kind, outcome and
	// hint; when the request was certainly never delivered the error is
	// KindUnavailable with outcome NotDone; when it may have been, outcome is
	// Indeterminate.
	Call(ctx context.Context, to base.NodeID, method string, request []byte) ([]byte, error)
	HandleCall(method string, h CallHandler)

	// OpenStream opens a bidirectional stream of messages to a service of a
	// peer; header is the first thing the service sees. The stream lives until
	// ctx is done or either side ends it.
	OpenStream(ctx context.Context, to base.NodeID, service string, header []byte) (Stream, error)
	// HandleStream serves a service; the stream ends when h returns, and its
	// error reaches the opener's Recv as a *base.Error.
	HandleStream(service string, h StreamHandler)

	// FetchFile reads a file that a peer serves, from an offset; it returns
	// the file's whole size. HandleFile maps a name to an open file.
	FetchFile(ctx context.Context, from base.NodeID, name string, offset int64) (body io.ReadCloser, size int64, err error)
	HandleFile(prefix string, open FileHandler)

	// OnReach sets a function that is told how a peer can be reached, whenever
	// that changes. It must return quickly.
	OnReach(ReachHandler)

	// Close ends all streams and waits for handlers to return.
	Close() error
}

// Stream is an ordered, reliable sequence of messages (each at most 16 MiB).
// One goroutine may send while another receives. A received slice is the
// receiver's to keep.
type Stream interface {
	Send(msg []byte) error
	Recv() ([]byte, error)
	// CloseSend tells the peer that nothing more comes; its Recv returns io.EOF.
	CloseSend() error
}

// ReadAtCloser is an open file to serve.
type ReadAtCloser interface {
	io.ReaderAt
	io.Closer
}

// Reach is what is known of the way to a peer.
type Reach string

// The ways. Refused means that the peer's machine answered and nothing listens
// there: its process is gone. Lost means a connection broke or a dial failed
// in any other way.
const (
	Reached Reach = "reached"
	Refused Reach = "refused"
	Lost    Reach = "lost"
)
