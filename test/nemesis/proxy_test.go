package nemesis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skeindb/skein/test/netns"
)

// link is how the connections from one node to another are treated. Its fields
// may be changed at any time.
type link struct {
	mu     sync.Mutex // guards what follows
	delay  time.Duration
	bytes  int       // a second; 0 is as fast as it goes
	stall  time.Time // nothing passes before
	splits map[*splice]bool
}

func (l *link) set(delay time.Duration, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay, l.bytes = delay, bytes
}

func (l *link) stallFor(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stall = time.Now().Add(d)
}

// reset breaks every connection.
func (l *link) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.splits {
		s.close()
	}
}

// proxies stand between all nodes: what a node sends to another's port is
// redirected, within its own namespace, to a proxy there.
type proxies struct {
	links     map[[2]int]*link
	listeners []net.Listener
	wg        sync.WaitGroup
}

const (
	proxyPort = 7700 // and the number of the other node
	proxyMark = 77   // on packets of the proxy itself, which are not redirected
)

// startProxies puts proxies on every link.
func startProxies(n *netns.Network, port string) (*proxies, error) {
	p := &proxies{links: map[[2]int]*link{}}
	for from := range n.Size() {
		rules := "table ip redirection {\n chain out {\n type nat hook output priority -100;\n"
		for to := range n.Size() {
			if from == to {
				continue
			}
			rules += fmt.Sprintf("meta mark != %d ip daddr %s tcp dport %s redirect to :%d\n", proxyMark, netns.Address(to), port, proxyPort+to)
			l, err := netns.Within(n, from, func() (net.Listener, error) { return net.Listen("tcp", fmt.Sprintf(":%d", proxyPort+to)) })
			if err != nil {
				p.stop()
				return nil, err
			}
			link := &link{splits: map[*splice]bool{}}
			p.links[[2]int{from, to}] = link
			p.listeners = append(p.listeners, l)
			p.wg.Go(func() { p.accept(n, l, link, from, netns.Address(to)+":"+port) })
		}
		if err := n.Filter(from, rules+" }\n}\n"); err != nil {
			p.stop()
			return nil, err
		}
	}
	return p, nil
}

// stop ends all connections and waits.
func (p *proxies) stop() {
	for _, l := range p.listeners {
		l.Close()
	}
	for _, l := range p.links {
		l.reset()
	}
	p.wg.Wait()
}

func (p *proxies) accept(n *netns.Network, l net.Listener, link *link, from int, to string) {
	for {
		near, err := l.Accept()
		if err != nil {
			return // It was closed.
		}
		// Dialled before anything else: a refused connection must be one at the
		// other end, too.
		far, err := netns.Within(n, from, func() (net.Conn, error) {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			defer cancel()
			return (&net.Dialer{Control: mark}).DialContext(ctx, "tcp", to)
		})
		if err != nil {
			_ = near.(*net.TCPConn).SetLinger(0) // A reset, as near as it comes.
			near.Close()
			continue
		}
		s := &splice{near: near, far: far, done: make(chan struct{})}
		link.mu.Lock()
		link.splits[s] = true
		link.mu.Unlock()
		p.wg.Go(func() {
			s.run(link)
			link.mu.Lock()
			delete(link.splits, s)
			link.mu.Unlock()
		})
	}
}

// mark has the packets of a socket pass the redirection.
func mark(_, _ string, c syscall.RawConn) error {
	var marked error
	err := c.Control(func(fd uintptr) { marked = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, proxyMark) })
	return errors.Join(err, marked)
}

// splice is a connection and its continuation.
type splice struct {
	near, far net.Conn
	once      sync.Once
	done      chan struct{}
}

func (s *splice) close() {
	s.once.Do(func() {
		close(s.done)
		s.near.Close()
		s.far.Close()
	})
}

// run passes bytes both ways until either end is gone.
func (s *splice) run(l *link) {
	var wg sync.WaitGroup
	wg.Go(func() { s.pass(l, s.far, s.near) })
	wg.Go(func() { s.pass(l, s.near, s.far) })
	wg.Wait()
}

// parcel is what was read at once, and when it may arrive.
type parcel struct {
	due   time.Time
	bytes []byte
}

// pass delays without holding up the reader, so that a delay costs no
// bandwidth, but for a bounded number of parcels on their way.
func (s *splice) pass(l *link, to io.Writer, from io.Reader) {
	onTheWay := make(chan parcel, 256)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer s.close()
		for p := range onTheWay {
			if !s.sleep(time.Until(p.due)) {
				return
			}
			if _, err := to.Write(p.bytes); err != nil {
				return
			}
		}
	})
	defer wg.Wait()
	defer close(onTheWay)
	defer s.close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			l.mu.Lock()
			due, bytes := time.Now().Add(l.delay), l.bytes
			if due.Before(l.stall) {
				due = l.stall
			}
			l.mu.Unlock()
			if bytes > 0 && !s.sleep(time.Duration(n)*time.Second/time.Duration(bytes)) {
				return
			}
			select {
			case onTheWay <- parcel{due, append([]byte(nil), buffer[:n]...)}:
			case <-s.done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (s *splice) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.done:
		return false
	}
}
