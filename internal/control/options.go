package control

import (
	"context"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// Messenger carries the control plane's messages. The node gives it a
// transport; controltest has one in memory.
type Messenger interface {
	// Send sends a message of at most MaxMessage bytes, best effort. It never
	// blocks.
	Send(to base.NodeID, msg []byte)
	// Call makes a request that the peer's HandleCall answers, as transport's
	// Call does.
	Call(ctx context.Context, to base.NodeID, method string, request []byte) ([]byte, error)
}

// Caller makes one request to a node that is reached in any way, by address
// for instance, before its id is known.
type Caller func(ctx context.Context, method string, request []byte) ([]byte, error)

// Options of a control plane. The zero value of a field that is not required
// is its default.
type Options struct {
	// Dir is the folder of control.db. Required unless Store is given.
	Dir string
	// Self is this node's id. Required.
	Self base.NodeID
	// Messenger is how peers are reached. Required.
	Messenger Messenger
	// VFS that control.db is opened with; empty means env's.
	VFS string
	// Store in the place of control.db; Close closes it.
	Store Store
	// TickInterval is the unit of the two numbers below. 20 ms.
	TickInterval time.Duration
	// HeartbeatTicks is how often a leader shows that it lives. 2.
	HeartbeatTicks int
	// ElectionTicks is for how long a follower believes in a leader that it
	// does not hear; it then stands for election within as long again. 12, so
	// that a leader that dies without a hint is replaced within 0.5 s.
	ElectionTicks int
	// MaxVoters bounds the voters; other nodes follow. 5.
	MaxVoters int
	// SnapshotEvery is after how many entries the catalog is written whole. 256.
	SnapshotEvery uint64
	// KeepEntries is how many entries before a snapshot are kept in memory for
	// followers that are a little behind. 1000.
	KeepEntries uint64
	// InboxSize bounds what waits for the loop. 1024.
	InboxSize int
	// ProposeTimeout bounds calls whose context has no deadline. 10 s.
	ProposeTimeout time.Duration
}

// Defaults of Options.
const (
	DefaultTickInterval   = 20 * time.Millisecond
	DefaultHeartbeatTicks = 2
	DefaultElectionTicks  = 12
	DefaultMaxVoters      = 5
	DefaultSnapshotEvery  = 256
	DefaultKeepEntries    = 1000
	DefaultInboxSize      = 1024
	DefaultProposeTimeout = 10 * time.Second
)

func (o Options) withDefaults() Options {
	setDefault(&o.TickInterval, DefaultTickInterval)
	setDefault(&o.HeartbeatTicks, DefaultHeartbeatTicks)
	setDefault(&o.ElectionTicks, DefaultElectionTicks)
	setDefault(&o.MaxVoters, DefaultMaxVoters)
	setDefault(&o.SnapshotEvery, DefaultSnapshotEvery)
	setDefault(&o.KeepEntries, DefaultKeepEntries)
	setDefault(&o.InboxSize, DefaultInboxSize)
	setDefault(&o.ProposeTimeout, DefaultProposeTimeout)
	return o
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

func (o Options) validate() error {
	switch {
	case o.Self == 0 || o.Self > base.MaxNodeID:
		return base.Errorf(base.KindInvalid, "control options: node id %s is not allowed", o.Self)
	case o.Messenger == nil:
		return base.Errorf(base.KindInvalid, "control options: no messenger")
	case o.Store == nil && o.Dir == "":
		return base.Errorf(base.KindInvalid, "control options: no folder")
	case o.TickInterval < 0 || o.HeartbeatTicks < 1 || o.ElectionTicks <= o.HeartbeatTicks:
		return base.Errorf(base.KindInvalid, "control options: want heartbeat ticks of 1 or more, and more election ticks")
	case o.MaxVoters < 1 || o.InboxSize < 1 || o.ProposeTimeout < 0:
		return base.Errorf(base.KindInvalid, "control options: limits must be positive")
	}
	return nil
}
