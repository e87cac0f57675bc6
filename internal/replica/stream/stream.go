// Package stream holds the messages between the replicas of one single-leader
// database, and between them and the supervisor, as bytes.
//
// Every message starts with a kind, a version and a CRC-32C of all the rest;
// docs/format/stream.md describes them. A Batch has a header of fixed size
// before its frames, so that a sender reads frames from its log straight into
// the message (PutBatch), and a receiver's frames alias what it received.
//
// It is pure: no clock, socket, file or goroutine. It imports base and
// leadership. Decoders check everything they read, never panic, and allocate
// no more than the message is long.
package stream

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
)

// Kind of a message: its first byte.
type Kind byte

// The kinds. Numbers are never reused.
const (
	KindFollow         Kind = 1
	KindPlan           Kind = 2
	KindBatch          Kind = 3
	KindHeartbeat      Kind = 4
	KindAck            Kind = 5
	KindPromiseRequest Kind = 6
	KindPromiseReply   Kind = 7
	KindReleaseRequest Kind = 8
	KindReleaseReply   Kind = 9
	KindAway           Kind = 10
)

const (
	version    = 3
	headerSize = 6 // kind, version, CRC-32C

	// MaxStarts bounds the epochs of a history.
	MaxStarts = 1 << 16
	// MaxText bounds a refusal or reason in bytes; longer ones are cut.
	MaxText = 1024
	// BatchHeaderSize is what goes before the frames of a Batch.
	BatchHeaderSize = headerSize + 7*8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// KindOf returns the kind of a message, without checking the rest of it.
func KindOf(msg []byte) (Kind, error) {
	if len(msg) < headerSize {
		return 0, fmt.Errorf("stream message: %d bytes are too few", len(msg))
	}
	return Kind(msg[0]), nil
}

func begin(dst []byte, k Kind) []byte { return append(dst, byte(k), version, 0, 0, 0, 0) }

// seal writes the checksum of a message that fills msg.
func seal(msg []byte) { binary.LittleEndian.PutUint32(msg[2:], sum(msg)) }

func sum(msg []byte) uint32 {
	return crc32.Update(crc32.Checksum(msg[:2], castagnoli), castagnoli, msg[headerSize:])
}

// open checks a message's header and returns a reader of its body.
func open(msg []byte, want Kind) (reader, error) {
	k, err := KindOf(msg)
	switch {
	case err != nil:
		return reader{}, err
	case k != want:
		return reader{}, fmt.Errorf("stream message: kind %d, want %d", k, want)
	case sum(msg) != binary.LittleEndian.Uint32(msg[2:]):
		return reader{}, fmt.Errorf("stream message of kind %d: bad checksum", k)
	case msg[1] != version:
		return reader{}, fmt.Errorf("stream message of kind %d: version %d, want %d", k, msg[1], version)
	}
	return reader{b: msg[headerSize:]}, nil
}

// reader takes fields off a body; its first error sticks.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("stream message: bad %s", what)
	}
	r.b = nil
}

func (r *reader) uvarint(what string) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 {
		r.fail(what)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) fixed(what string) uint64 {
	if len(r.b) < 8 {
		r.fail(what)
		return 0
	}
	v := binary.LittleEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

func (r *reader) byte(what string) byte {
	if len(r.b) < 1 {
		r.fail(what)
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

// flags reads a byte of which only the bits of mask may be set.
func (r *reader) flags(mask byte) byte {
	v := r.byte("flags")
	if v&^mask != 0 {
		r.fail("flags")
	}
	return v
}

func (r *reader) position(what string) base.Position {
	return base.Position{Epoch: base.Epoch(r.uvarint(what)), Seq: base.Seq(r.uvarint(what))}
}

func (r *reader) duration(what string) time.Duration {
	v := r.uvarint(what)
	if v > 1<<62 {
		r.fail(what)
		return 0
	}
	return time.Duration(v)
}

func (r *reader) fixedDuration(what string) time.Duration {
	v := r.fixed(what)
	if v > 1<<62 {
		r.fail(what)
		return 0
	}
	return time.Duration(v)
}

func (r *reader) text(what string) string {
	n := r.uvarint(what)
	if n > MaxText || n > uint64(len(r.b)) {
		r.fail(what)
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

// done says whether all was well and nothing is left over.
func (r *reader) done() error {
	if r.err == nil && len(r.b) != 0 {
		r.fail("end: bytes are left over")
	}
	return r.err
}

func appendPosition(dst []byte, p base.Position) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(dst, uint64(p.Epoch)), uint64(p.Seq))
}

func appendText(dst []byte, s string) []byte {
	s = s[:min(len(s), MaxText)]
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func bit(value byte, on bool) byte {
	if on {
		return value
	}
	return 0
}

// finish seals the message that begins at at in dst.
func finish(dst []byte, at int) []byte {
	seal(dst[at:])
	return dst
}

// The flags of a FollowRequest, of promises and of acknowledgements.
const (
	flagFresh   = 1
	flagProbe   = 2
	flagGranted = 4
	flagDeaf    = 8
	flagRead    = 16
)

// AppendFollow appends a FollowRequest.
func AppendFollow(dst []byte, f leadership.FollowRequest) []byte {
	at := len(dst)
	dst = append(begin(dst, KindFollow), bit(flagFresh, f.Fresh))
	dst = binary.AppendUvarint(dst, uint64(f.Database))
	dst = binary.AppendUvarint(dst, uint64(f.Epoch))
	dst = binary.AppendUvarint(dst, uint64(f.Promised))
	dst = binary.AppendUvarint(dst, uint64(f.LogStart))
	dst = AppendHistory(dst, f.History)
	return finish(dst, at)
}

// DecodeFollow reads a FollowRequest.
func DecodeFollow(msg []byte) (leadership.FollowRequest, error) {
	r, err := open(msg, KindFollow)
	if err != nil {
		return leadership.FollowRequest{}, err
	}
	f := leadership.FollowRequest{
		Fresh:    r.flags(flagFresh) != 0,
		Database: base.DatabaseID(r.uvarint("database")),
		Epoch:    base.Epoch(r.uvarint("epoch")),
		Promised: base.Epoch(r.uvarint("promised epoch")),
		LogStart: base.Seq(r.uvarint("log start")),
		History:  r.history(),
	}
	if err := r.done(); err != nil {
		return leadership.FollowRequest{}, err
	}
	return f, nil
}

// AppendHistory appends a history, without header or checksum: it is part of a
// Follow message, and of other formats that carry one.
func AppendHistory(dst []byte, h leadership.History) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(h.Starts)))
	for _, s := range h.Starts {
		dst = appendPosition(dst, base.Position(s))
	}
	return appendPosition(dst, h.Last)
}

// DecodeHistory reads what AppendHistory wrote, and returns what follows it.
func DecodeHistory(b []byte) (leadership.History, []byte, error) {
	r := reader{b: b}
	h := r.history()
	return h, r.b, r.err
}

func (r *reader) history() leadership.History {
	var h leadership.History
	n := r.uvarint("epoch starts")
	if n > MaxStarts || n > uint64(len(r.b)/2) {
		r.fail("epoch starts")
		return h
	}
	if n > 0 {
		h.Starts = make([]leadership.EpochStart, n)
	}
	for i := range h.Starts {
		h.Starts[i] = leadership.EpochStart(r.position("epoch start"))
	}
	h.Last = r.position("last position")
	if r.err == nil {
		if err := h.Validate(); err != nil {
			r.err = fmt.Errorf("stream message: %w", err)
		}
	}
	if r.err != nil {
		return leadership.History{}
	}
	return h
}

// AppendPlan appends a Plan.
func AppendPlan(dst []byte, p leadership.Plan) []byte {
	at := len(dst)
	dst = append(begin(dst, KindPlan), byte(p.Kind))
	dst = binary.AppendUvarint(dst, uint64(p.Epoch))
	dst = binary.AppendUvarint(dst, uint64(p.From))
	dst = appendPosition(dst, p.To)
	return finish(dst, at)
}

// DecodePlan reads a Plan.
func DecodePlan(msg []byte) (leadership.Plan, error) {
	r, err := open(msg, KindPlan)
	if err != nil {
		return leadership.Plan{}, err
	}
	p := leadership.Plan{
		Kind:  leadership.PlanKind(r.byte("plan")),
		Epoch: base.Epoch(r.uvarint("epoch")),
		From:  base.Seq(r.uvarint("first seq")),
		To:    r.position("position"),
	}
	if p.Kind < leadership.PlanStart || p.Kind > leadership.PlanStale {
		r.fail("plan")
	}
	if err := r.done(); err != nil {
		return leadership.Plan{}, err
	}
	return p, nil
}

// Batch is a push from leader to follower. Without frames it is a heartbeat.
type Batch struct {
	Epoch base.Epoch
	// First and Last are the seqs that Frames cover. A heartbeat has First =
	// Last+1, Last being the end of the leader's log.
	First, Last base.Seq
	// Safe is the leader's safe seq.
	Safe base.Seq
	// Stamp is the leader's clock when it sent this; the follower echoes it
	// and makes nothing else of it.
	Stamp leadership.Instant
	// Lease is what the leader asks for; zero asks for none, nor for an
	// acknowledgement of a heartbeat.
	Lease time.Duration
	// Wall is the leader's wall clock, in nanoseconds since 1970, for people.
	Wall int64
	// Frames of the log, one after another; nil for a heartbeat.
	Frames []byte
}

// PutBatch writes the header of a batch into the first BatchHeaderSize bytes of
// msg, whose rest holds the frames already; b.Frames is ignored.
func PutBatch(msg []byte, b Batch) {
	msg[0], msg[1] = byte(KindBatch), version
	if len(msg) == BatchHeaderSize {
		msg[0] = byte(KindHeartbeat)
	}
	for i, v := range []uint64{uint64(b.Epoch), uint64(b.First), uint64(b.Last), uint64(b.Safe), uint64(b.Stamp), uint64(max(0, b.Lease)), uint64(b.Wall)} {
		binary.LittleEndian.PutUint64(msg[headerSize+8*i:], v)
	}
	seal(msg)
}

// AppendBatch appends a batch with a copy of its frames, or a heartbeat.
func AppendBatch(dst []byte, b Batch) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, BatchHeaderSize)...)
	dst = append(dst, b.Frames...)
	PutBatch(dst[at:], b)
	return dst
}

// DecodeBatch reads a Batch or a heartbeat; its Frames alias msg.
func DecodeBatch(msg []byte) (Batch, error) {
	want := KindBatch
	if len(msg) > 0 && Kind(msg[0]) == KindHeartbeat {
		want = KindHeartbeat
	}
	r, err := open(msg, want)
	if err != nil {
		return Batch{}, err
	}
	b := Batch{
		Epoch: base.Epoch(r.fixed("epoch")), First: base.Seq(r.fixed("first seq")), Last: base.Seq(r.fixed("last seq")),
		Safe: base.Seq(r.fixed("safe seq")), Stamp: leadership.Instant(r.fixed("stamp")),
		Lease: r.fixedDuration("lease"), Wall: int64(r.fixed("wall clock")),
	}
	if r.err != nil {
		return Batch{}, r.err
	}
	switch {
	case want == KindHeartbeat && (len(r.b) != 0 || b.First != b.Last+1):
		return Batch{}, fmt.Errorf("stream message: a heartbeat that holds seqs %d to %d and %d bytes", b.First, b.Last, len(r.b))
	case want == KindBatch && (len(r.b) == 0 || b.First == 0 || b.First > b.Last):
		return Batch{}, fmt.Errorf("stream message: a batch of seqs %d to %d in %d bytes", b.First, b.Last, len(r.b))
	case want == KindBatch:
		b.Frames = r.b
	}
	return b, nil
}

// AppendAck appends an Ack.
func AppendAck(dst []byte, a leadership.Ack) []byte {
	at := len(dst)
	dst = append(begin(dst, KindAck), bit(flagRead, a.Read))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(a.Stamp))
	dst = binary.AppendUvarint(dst, uint64(max(0, a.Lease)))
	dst = binary.AppendUvarint(dst, uint64(a.Epoch))
	dst = binary.AppendUvarint(dst, uint64(a.Received))
	dst = binary.AppendUvarint(dst, uint64(a.Flushed))
	dst = binary.AppendUvarint(dst, uint64(a.Applied))
	return finish(dst, at)
}

// DecodeAck reads an Ack.
func DecodeAck(msg []byte) (leadership.Ack, error) {
	r, err := open(msg, KindAck)
	if err != nil {
		return leadership.Ack{}, err
	}
	a := leadership.Ack{
		Read:  r.flags(flagRead) != 0,
		Stamp: leadership.Instant(r.fixed("stamp")), Lease: r.duration("lease"), Epoch: base.Epoch(r.uvarint("epoch")),
		Received: base.Seq(r.uvarint("received")), Flushed: base.Seq(r.uvarint("flushed")), Applied: base.Seq(r.uvarint("applied")),
	}
	if err := r.done(); err != nil {
		return leadership.Ack{}, err
	}
	return a, nil
}
