package leader

import (
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/replica"
)

const (
	// maxFeeds bounds the streams of changes that one replica serves.
	maxFeeds = 64
	// maxFeedSnapshots bounds the copies that initial snapshots are read from.
	maxFeedSnapshots = 2
	// rateOver is the time over which the log's growth is averaged.
	rateOver = 30 * time.Second
)

// consumer is who reads a stream, and how far the log was read for it.
type consumer struct {
	name string
	at   atomic.Uint64
}

// feeds are the streams of changes that read this replica's log.
type feeds struct {
	mu struct {
		sync.Mutex // guards all below
		reading    map[*feed]struct{}
		snapshots  int
	}
	// growth of the log in bytes a second, as the bits of a float; only the
	// keeper writes it.
	growth atomic.Uint64
}

func (s *feeds) enter(f *feed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.reading == nil {
		s.mu.reading = make(map[*feed]struct{})
	}
	s.mu.reading[f] = struct{}{}
}

func (s *feeds) leave(f *feed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.reading, f)
}

// full says that no further stream is served.
func (s *feeds) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mu.reading) >= maxFeeds
}

func (s *feeds) beginSnapshot() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.snapshots == maxFeedSnapshots {
		return base.Errorf(base.KindBusy, "%d initial snapshots are being sent from this replica already", maxFeedSnapshots).
			WithHint("try again later, or ask another node")
	}
	s.mu.snapshots++
	return nil
}

func (s *feeds) endSnapshot() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.snapshots--
}

// consumers lists who reads, by name and place.
func (s *feeds) consumers() []replica.Consumer {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []replica.Consumer
	for f := range s.mu.reading {
		list = append(list, replica.Consumer{Name: f.consumer.name, At: base.Seq(f.consumer.at.Load())})
	}
	slices.SortFunc(list, func(a, b replica.Consumer) int {
		switch {
		case a.Name != b.Name && a.Name < b.Name, a.Name == b.Name && a.At < b.At:
			return -1
		case a == b:
			return 0
		}
		return 1
	})
	return list
}

// holders are the consumers that the log is kept for, within its cap.
func (s *feeds) holders() (list []changelog.Holder) {
	for _, c := range s.consumers() {
		list = append(list, changelog.Holder{Has: c.At})
	}
	return list
}

// measure takes in how much the log has grown since the last call.
func (s *feeds) measure(bytes int64, over time.Duration) {
	if over <= 0 {
		return
	}
	old := math.Float64frombits(s.growth.Load())
	weight := 1 - math.Exp(-float64(over)/float64(rateOver))
	s.growth.Store(math.Float64bits(old + weight*(float64(bytes)/over.Seconds()-old)))
}

// forecast tells of everyone who needs the log, followers and consumers, when
// they would be cut off if they read no more and writes went on as they do.
func (r *Replica) forecast(s *replica.Status) {
	limit := r.assignment().Policy.RetentionBytes
	if limit <= 0 {
		limit = base.DefaultRetentionBytes
	}
	var holders []changelog.Holder
	for _, f := range s.Followers {
		holders = append(holders, changelog.Holder{Node: f.Node, Has: f.Flushed})
	}
	s.Consumers = r.feeds.consumers()
	for _, c := range s.Consumers {
		holders = append(holders, changelog.Holder{Has: c.At})
	}
	growth := math.Float64frombits(r.feeds.growth.Load())
	// Nothing is advised to go here: applied is 0.
	outlook := changelog.Retain(r.changes.Segments(), limit, limit, 0, holders).Followers
	for i, o := range outlook {
		if i < len(s.Followers) {
			s.Followers[i].Forecast, s.Followers[i].LagBytes = forecastOf(o, growth), o.LagBytes
		} else {
			s.Consumers[i-len(s.Followers)].Forecast = forecastOf(o, growth)
		}
	}
}

func forecastOf(o changelog.Outlook, growth float64) replica.Forecast {
	f := replica.Forecast{BehindBytes: o.BehindBytes, RoomBytes: o.RoomBytes, CutOff: o.CutOff}
	seconds := float64(o.RoomBytes+trimSlackBytes) / max(growth, 1)
	if growth >= 1 && !o.CutOff && seconds < 1e9 { // Longer is not in this life.
		f.CutOffIn = time.Duration(seconds * float64(time.Second))
	}
	return f
}

func sorted(tables map[string]string) []string { return slices.Sorted(maps.Keys(tables)) }
