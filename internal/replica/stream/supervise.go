package stream

import (
	"encoding/binary"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
)

// AppendPromiseRequest appends a PromiseRequest.
func AppendPromiseRequest(dst []byte, p leadership.PromiseRequest) []byte {
	at := len(dst)
	dst = append(begin(dst, KindPromiseRequest), bit(flagProbe, p.Probe))
	dst = binary.AppendUvarint(dst, uint64(p.Database))
	dst = binary.AppendUvarint(dst, uint64(p.Epoch))
	return finish(dst, at)
}

// DecodePromiseRequest reads a PromiseRequest.
func DecodePromiseRequest(msg []byte) (leadership.PromiseRequest, error) {
	r, err := open(msg, KindPromiseRequest)
	if err != nil {
		return leadership.PromiseRequest{}, err
	}
	p := leadership.PromiseRequest{
		Probe:    r.flags(flagProbe) != 0,
		Database: base.DatabaseID(r.uvarint("database")),
		Epoch:    base.Epoch(r.uvarint("epoch")),
	}
	if err := r.done(); err != nil {
		return leadership.PromiseRequest{}, err
	}
	return p, nil
}

// AppendPromiseReply appends a PromiseReply.
func AppendPromiseReply(dst []byte, p leadership.PromiseReply) []byte {
	at := len(dst)
	dst = append(begin(dst, KindPromiseReply), bit(flagFresh, p.Fresh)|bit(flagProbe, p.Probe)|bit(flagGranted, p.Granted)|bit(flagDeaf, p.Deaf))
	dst = binary.AppendUvarint(dst, uint64(p.Database))
	dst = binary.AppendUvarint(dst, uint64(p.Epoch))
	dst = binary.AppendUvarint(dst, uint64(p.Promised))
	dst = appendPosition(dst, p.Position)
	dst = binary.AppendUvarint(dst, uint64(max(0, p.LeaseRemaining)))
	dst = binary.AppendUvarint(dst, uint64(max(0, p.Silence)))
	dst = binary.AppendUvarint(dst, uint64(p.LeaderEnd))
	dst = binary.AppendUvarint(dst, uint64(max(0, p.Behind)))
	return finish(dst, at)
}

// DecodePromiseReply reads a PromiseReply.
func DecodePromiseReply(msg []byte) (leadership.PromiseReply, error) {
	r, err := open(msg, KindPromiseReply)
	if err != nil {
		return leadership.PromiseReply{}, err
	}
	flags := r.flags(flagFresh | flagProbe | flagGranted | flagDeaf)
	p := leadership.PromiseReply{
		Fresh: flags&flagFresh != 0, Probe: flags&flagProbe != 0, Granted: flags&flagGranted != 0, Deaf: flags&flagDeaf != 0,
		Database:       base.DatabaseID(r.uvarint("database")),
		Epoch:          base.Epoch(r.uvarint("epoch")),
		Promised:       base.Epoch(r.uvarint("promised epoch")),
		Position:       r.position("position"),
		LeaseRemaining: r.duration("lease"),
		Silence:        r.duration("silence"),
		LeaderEnd:      base.Seq(r.uvarint("leader's end")),
		Behind:         r.duration("lag"),
	}
	if err := r.done(); err != nil {
		return leadership.PromiseReply{}, err
	}
	return p, nil
}

// ReleaseRequest asks a leader to hand its database over to Target.
type ReleaseRequest struct {
	Database base.DatabaseID
	Epoch    base.Epoch
	Target   base.NodeID
	// Within bounds how long writes may stop for it.
	Within time.Duration
}

// AppendReleaseRequest appends a ReleaseRequest.
func AppendReleaseRequest(dst []byte, q ReleaseRequest) []byte {
	at := len(dst)
	dst = binary.LittleEndian.AppendUint64(begin(dst, KindReleaseRequest), uint64(q.Target))
	dst = binary.AppendUvarint(dst, uint64(q.Database))
	dst = binary.AppendUvarint(dst, uint64(q.Epoch))
	dst = binary.AppendUvarint(dst, uint64(max(0, q.Within)))
	return finish(dst, at)
}

// DecodeReleaseRequest reads a ReleaseRequest.
func DecodeReleaseRequest(msg []byte) (ReleaseRequest, error) {
	r, err := open(msg, KindReleaseRequest)
	if err != nil {
		return ReleaseRequest{}, err
	}
	q := ReleaseRequest{
		Target: base.NodeID(r.fixed("target")), Database: base.DatabaseID(r.uvarint("database")),
		Epoch: base.Epoch(r.uvarint("epoch")), Within: r.duration("bound"),
	}
	if err := r.done(); err != nil {
		return ReleaseRequest{}, err
	}
	return q, nil
}

// ReleaseReply says that a leader has stopped at its Final position, which
// Target has on disk; or why it leads on.
type ReleaseReply struct {
	Database base.DatabaseID
	Epoch    base.Epoch
	Target   base.NodeID
	Final    base.Position
	Refusal  string // empty: released
}

// AppendReleaseReply appends a ReleaseReply.
func AppendReleaseReply(dst []byte, p ReleaseReply) []byte {
	at := len(dst)
	dst = binary.LittleEndian.AppendUint64(begin(dst, KindReleaseReply), uint64(p.Target))
	dst = binary.AppendUvarint(dst, uint64(p.Database))
	dst = binary.AppendUvarint(dst, uint64(p.Epoch))
	dst = appendPosition(dst, p.Final)
	dst = appendText(dst, p.Refusal)
	return finish(dst, at)
}

// DecodeReleaseReply reads a ReleaseReply.
func DecodeReleaseReply(msg []byte) (ReleaseReply, error) {
	r, err := open(msg, KindReleaseReply)
	if err != nil {
		return ReleaseReply{}, err
	}
	p := ReleaseReply{
		Target: base.NodeID(r.fixed("target")), Database: base.DatabaseID(r.uvarint("database")),
		Epoch: base.Epoch(r.uvarint("epoch")), Final: r.position("final position"), Refusal: r.text("refusal"),
	}
	if err := r.done(); err != nil {
		return ReleaseReply{}, err
	}
	return p, nil
}

// Away is a node's word to the supervisor that it does not lead what the record
// says it leads, or leads it in vain. Reason is a failover.Reason.
type Away struct {
	Database base.DatabaseID
	Epoch    base.Epoch
	Reason   string
}

// AppendAway appends an Away.
func AppendAway(dst []byte, a Away) []byte {
	at := len(dst)
	dst = binary.AppendUvarint(begin(dst, KindAway), uint64(a.Database))
	dst = binary.AppendUvarint(dst, uint64(a.Epoch))
	dst = appendText(dst, a.Reason)
	return finish(dst, at)
}

// DecodeAway reads an Away.
func DecodeAway(msg []byte) (Away, error) {
	r, err := open(msg, KindAway)
	if err != nil {
		return Away{}, err
	}
	a := Away{
		Database: base.DatabaseID(r.uvarint("database")), Epoch: base.Epoch(r.uvarint("epoch")), Reason: r.text("reason"),
	}
	if err := r.done(); err != nil {
		return Away{}, err
	}
	return a, nil
}
