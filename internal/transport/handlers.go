package transport

import (
	"context"
	"strings"
	"sync"

	"github.com/skeindb/skein/internal/base"
)

// What the HandleX methods of a Transport take.
type (
	ControlHandler = func(from base.NodeID, msg []byte)
	CallHandler    = func(ctx context.Context, from base.NodeID, request []byte) ([]byte, error)
	StreamHandler  = func(ctx context.Context, from base.NodeID, header []byte, s Stream) error
	FileHandler    = func(ctx context.Context, from base.NodeID, name string) (ReadAtCloser, int64, error)
	ReachHandler   = func(peer base.NodeID, r Reach)
)

// Handlers is what a node answers its peers with. Every Transport embeds one,
// so that all of them find a handler, or say that there is none, alike. The
// zero Handlers is ready to use.
type Handlers struct {
	mu      sync.RWMutex // guards all below
	control ControlHandler
	reach   ReachHandler
	calls   map[string]CallHandler
	streams map[string]StreamHandler
	files   map[string]FileHandler // by prefix
}

// HandleControl implements Transport. As with the other HandleX methods, what
// comes in before the handler is set is refused or dropped: set handlers before
// the transport is started.
func (h *Handlers) HandleControl(f ControlHandler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.control = f
}

// HandleCall implements Transport.
func (h *Handlers) HandleCall(method string, f CallHandler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	set(&h.calls, method, f)
}

// HandleStream implements Transport.
func (h *Handlers) HandleStream(service string, f StreamHandler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	set(&h.streams, service, f)
}

// HandleFile implements Transport. Of several prefixes that fit a name, the
// longest wins.
func (h *Handlers) HandleFile(prefix string, open FileHandler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	set(&h.files, prefix, open)
}

// OnReach implements Transport.
func (h *Handlers) OnReach(f ReachHandler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reach = f
}

func set[F any](m *map[string]F, name string, f F) {
	if *m == nil {
		*m = make(map[string]F)
	}
	(*m)[name] = f
}

// ForControl returns the receiver of control messages, nil when there is none.
func (h *Handlers) ForControl() ControlHandler {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.control
}

// ForReach returns who is told how peers can be reached, nil when nobody is.
func (h *Handlers) ForReach() ReachHandler {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.reach
}

// ServeCall has the handler of a method of node self answer a call.
func (h *Handlers) ServeCall(ctx context.Context, self, from base.NodeID, method string, request []byte) ([]byte, error) {
	h.mu.RLock()
	handle := h.calls[method]
	h.mu.RUnlock()
	if handle == nil {
		return nil, base.Errorf(base.KindUnsupported, "node %s knows no method %q", self, method)
	}
	reply, err := handle(ctx, from, request)
	if err != nil {
		return nil, err
	}
	if err := CheckSize("reply of "+method, len(reply), MaxMessage); err != nil {
		return nil, base.AsError(err).WithOutcome(base.Indeterminate)
	}
	return reply, nil
}

// ForStream returns the handler of a service of node self, or KindUnsupported.
func (h *Handlers) ForStream(self base.NodeID, service string) (StreamHandler, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if f := h.streams[service]; f != nil {
		return f, nil
	}
	return nil, base.Errorf(base.KindUnsupported, "node %s knows no service %q", self, service)
}

// ForFile returns who opens a file of node self, or KindNotFound.
func (h *Handlers) ForFile(self base.NodeID, name string) (FileHandler, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var found FileHandler
	longest := -1
	for prefix, open := range h.files {
		if len(prefix) > longest && strings.HasPrefix(name, prefix) {
			found, longest = open, len(prefix)
		}
	}
	if found == nil {
		return nil, base.Errorf(base.KindNotFound, "node %s serves no file %q", self, name)
	}
	return found, nil
}
