package wire

import (
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/env"
)

// refusals logs what is refused, each reason of each host once in a while, so
// that nobody can fill the log from outside.
type refusals struct {
	clock env.Clock
	log   *slog.Logger

	mu     sync.Mutex // guards recent
	recent map[refusal]*silence
}

type refusal struct{ host, what string }

type silence struct {
	until   time.Time
	dropped int
}

const (
	refusalSilence = 10 * time.Second
	maxRefusals    = 256 // hosts and reasons remembered at once
)

// report logs that something of a host was refused and why.
func (r *refusals) report(host, what string, err error) {
	if h, _, splitErr := net.SplitHostPort(host); splitErr == nil {
		host = h
	}
	if dropped, ok := r.admit(refusal{host, what}); ok {
		r.log.Warn(what, "peer", host, "error", err, "more_like_it", dropped)
	}
}

func (r *refusals) admit(key refusal) (dropped int, ok bool) {
	now := r.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.recent[key]
	if s != nil && now.Before(s.until) {
		s.dropped++
		return 0, false
	}
	if s == nil {
		if len(r.recent) >= maxRefusals || r.recent == nil {
			r.recent = make(map[refusal]*silence)
		}
		s = &silence{}
		r.recent[key] = s
	}
	dropped, s.dropped, s.until = s.dropped, 0, now.Add(refusalSilence)
	return dropped, true
}
