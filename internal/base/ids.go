package base

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// NodeID names one process for as long as its data folder lives. It is drawn
// at random when the folder is made and never reused; zero names no node.
type NodeID uint64

// String returns the id as 16 hexadecimal digits.
func (n NodeID) String() string { return fmt.Sprintf("%016x", uint64(n)) }

// MaxNodeID is the highest id that a node may have; it keeps clear of those that
// the consensus library uses itself.
const MaxNodeID NodeID = math.MaxUint64 - 16

// NewNodeID draws an id for a new node.
func NewNodeID(random interface{ Uint64() uint64 }) NodeID {
	for {
		if id := NodeID(random.Uint64()); id != 0 && id <= MaxNodeID {
			return id
		}
	}
}

// ParseNodeID reads what String wrote.
func ParseNodeID(s string) (NodeID, error) {
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil || v == 0 {
		return 0, fmt.Errorf("parse node id %q: want up to 16 hexadecimal digits, not zero", s)
	}
	return NodeID(v), nil
}

// DatabaseID names a database for ever; the control plane counts them up from
// one and a name that is dropped and made again gets a new one.
type DatabaseID uint64

// Epoch counts how often a database's leadership has changed. Every log entry
// and every replication message carries one; the first leader has epoch one.
type Epoch uint64

// Seq numbers row changes within a database's log, from one, without gaps.
type Seq uint64

// Position is how far a replica of a single-leader database has come: the
// epoch of its last entry and the last sequence number that entry covers. The
// zero Position is the empty log.
type Position struct {
	Epoch Epoch
	Seq   Seq
}

// String returns "epoch/seq".
func (p Position) String() string { return fmt.Sprintf("%d/%d", p.Epoch, p.Seq) }

// ParsePosition reads what String writes.
func ParsePosition(text string) (Position, error) {
	epoch, seq, ok := strings.Cut(text, "/")
	e, err := strconv.ParseUint(epoch, 10, 64)
	q, qerr := strconv.ParseUint(seq, 10, 64)
	if !ok || err != nil || qerr != nil {
		return Position{}, Errorf(KindInvalid, "position %q: want epoch/seq, such as 2/88", text)
	}
	return Position{Epoch: Epoch(e), Seq: Seq(q)}, nil
}

// Less orders positions as an election does: a later epoch wins, then the
// longer log. Two logs that end at equal positions are equal.
func (p Position) Less(q Position) bool {
	return p.Epoch < q.Epoch || (p.Epoch == q.Epoch && p.Seq < q.Seq)
}
