package stream

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/leadership"
)

var update = flag.Bool("update", false, "write golden files")

// samples are one message of each kind, in the order of the golden file.
func samples() []struct {
	name string
	msg  []byte
} {
	h := leadership.History{
		Starts: []leadership.EpochStart{{Epoch: 1, Seq: 1}, {Epoch: 3, Seq: 200}},
		Last:   base.Position{Epoch: 3, Seq: 300},
	}
	type sample = struct {
		name string
		msg  []byte
	}
	return []sample{
		{"follow", AppendFollow(nil, leadership.FollowRequest{Database: 7, Epoch: 4, Promised: 4, History: h, LogStart: 150})},
		{"follow fresh", AppendFollow(nil, leadership.FollowRequest{Database: 7, Epoch: 4, Fresh: true})},
		{"plan start", AppendPlan(nil, leadership.Plan{Kind: leadership.PlanStart, Epoch: 4, From: 301})},
		{"plan truncate", AppendPlan(nil, leadership.Plan{Kind: leadership.PlanTruncate, Epoch: 4, To: base.Position{Epoch: 3, Seq: 250}})},
		{"batch", AppendBatch(nil, Batch{Epoch: 4, First: 301, Last: 303, Safe: 300, Stamp: -5, Wall: 1700000000e9, Frames: []byte("frames")})},
		{"heartbeat", AppendBatch(nil, Batch{Epoch: 4, First: 304, Last: 303, Safe: 303, Stamp: 1 << 40, Wall: 1700000001e9})},
		{"ack", AppendAck(nil, leadership.Ack{Epoch: 4, Stamp: 1 << 40, Received: 303, Flushed: 302, Applied: 301})},
		{"ack of a copy that is read", AppendAck(nil, leadership.Ack{Epoch: 4, Received: 303, Flushed: 302, Applied: 301, Read: true})},
		{"promise request", AppendPromiseRequest(nil, leadership.PromiseRequest{Database: 7, Epoch: 5, Probe: true})},
		{"promise reply", AppendPromiseReply(nil, leadership.PromiseReply{
			Database: 7, Epoch: 5, Promised: 5, Granted: true, Position: h.Last, LeaseRemaining: 1500 * time.Millisecond,
			Silence: 120 * time.Millisecond, LeaderEnd: 310, Behind: 2 * time.Second, Deaf: true,
		})},
		{"release request", AppendReleaseRequest(nil, ReleaseRequest{Database: 7, Epoch: 5, Target: 0xfeedfacecafebeef, Within: time.Second})},
		{"release reply", AppendReleaseReply(nil, ReleaseReply{Database: 7, Epoch: 5, Target: 2, Final: h.Last, Refusal: "busy"})},
		{"away", AppendAway(nil, Away{Database: 7, Epoch: 5, Reason: "leader was restarted"})},
	}
}

// recode decodes a message of any kind and encodes it again.
func recode(msg []byte) ([]byte, error) {
	k, err := KindOf(msg)
	if err != nil {
		return nil, err
	}
	switch k {
	case KindFollow:
		return again(DecodeFollow, AppendFollow, msg)
	case KindPlan:
		return again(DecodePlan, AppendPlan, msg)
	case KindBatch, KindHeartbeat:
		return again(DecodeBatch, AppendBatch, msg)
	case KindAck:
		return again(DecodeAck, AppendAck, msg)
	case KindPromiseRequest:
		return again(DecodePromiseRequest, AppendPromiseRequest, msg)
	case KindPromiseReply:
		return again(DecodePromiseReply, AppendPromiseReply, msg)
	case KindReleaseRequest:
		return again(DecodeReleaseRequest, AppendReleaseRequest, msg)
	case KindReleaseReply:
		return again(DecodeReleaseReply, AppendReleaseReply, msg)
	case KindAway:
		return again(DecodeAway, AppendAway, msg)
	}
	return nil, os.ErrInvalid
}

func again[T any](decode func([]byte) (T, error), encode func([]byte, T) []byte, msg []byte) ([]byte, error) {
	v, err := decode(msg)
	if err != nil {
		var zero T
		if !reflect.DeepEqual(v, zero) {
			panic("an error came with a value")
		}
		return nil, err
	}
	return encode([]byte("prefix"), v)[len("prefix"):], nil
}

func TestGolden(t *testing.T) {
	var b strings.Builder
	for _, s := range samples() {
		b.WriteString(s.name + ": " + hex.EncodeToString(s.msg) + "\n")
	}
	if *update {
		if err := os.WriteFile("testdata/messages.golden", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/messages.golden")
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("messages differ from the golden file:\n%s", b.String())
	}
}

func TestRoundTrip(t *testing.T) {
	for _, s := range samples() {
		got, err := recode(s.msg)
		if err != nil || !bytes.Equal(got, s.msg) {
			t.Errorf("%s: %x, %v", s.name, got, err)
		}
	}
}

func TestFieldsSurvive(t *testing.T) {
	in := Batch{Epoch: 9, First: 5, Last: 6, Safe: 4, Stamp: -1, Wall: -2, Frames: []byte{1, 2, 3}}
	out, err := DecodeBatch(AppendBatch(nil, in))
	if err != nil || !reflect.DeepEqual(in, out) {
		t.Errorf("batch: %+v, %v", out, err)
	}
	reply := leadership.PromiseReply{Database: 1, Epoch: 2, Promised: 3, Probe: true, Fresh: true, Position: base.Position{Epoch: 1, Seq: 2}, LeaseRemaining: 3, Silence: 4, LeaderEnd: 5, Behind: 6, Deaf: true}
	got, err := DecodePromiseReply(AppendPromiseReply(nil, reply))
	if err != nil || got != reply {
		t.Errorf("promise reply: %+v, %v", got, err)
	}
}

// TestPutBatchCopiesNothing: frames that were read into place are the message.
func TestPutBatchCopiesNothing(t *testing.T) {
	msg := append(make([]byte, BatchHeaderSize), "frames"...)
	b := Batch{Epoch: 1, First: 1, Last: 2}
	if n := testing.AllocsPerRun(100, func() { PutBatch(msg, b) }); n != 0 {
		t.Errorf("PutBatch allocates %v times", n)
	}
	got, err := DecodeBatch(msg)
	if err != nil || string(got.Frames) != "frames" || &got.Frames[0] != &msg[BatchHeaderSize] {
		t.Errorf("decoded %q, %v", got.Frames, err)
	}
}

// TestEveryBitCounts: a message with any one bit turned is refused.
func TestEveryBitCounts(t *testing.T) {
	for _, s := range samples() {
		for i := range len(s.msg) * 8 {
			bad := bytes.Clone(s.msg)
			bad[i/8] ^= 1 << (i % 8)
			if _, err := recode(bad); err == nil {
				t.Errorf("%s: bit %d turned, and nothing was noticed", s.name, i)
			}
		}
		for n := range s.msg {
			if _, err := recode(s.msg[:n]); err == nil {
				t.Errorf("%s: cut to %d bytes, and nothing was noticed", s.name, n)
			}
		}
	}
}

// TestMadeUpMessages: a right checksum does not make a right message.
func TestMadeUpMessages(t *testing.T) {
	for name, msg := range map[string][]byte{
		"later version":            func() []byte { m := begin(nil, KindAck); m[1] = version + 1; return m }(),
		"batch without frames":     func() []byte { m := AppendBatch(nil, Batch{First: 1}); m[0] = byte(KindBatch); return m }(),
		"batch that starts at 0":   AppendBatch(nil, Batch{Frames: []byte{1}}),
		"batch backwards":          AppendBatch(nil, Batch{First: 2, Last: 1, Frames: []byte{1}}),
		"heartbeat with seqs":      AppendBatch(nil, Batch{First: 1, Last: 3}),
		"many starts":              append(begin(nil, KindFollow), 0, 1, 1, 1, 1, 0xff, 0xff, 3),
		"history that goes back":   AppendFollow(nil, leadership.FollowRequest{History: leadership.History{Starts: []leadership.EpochStart{{Epoch: 2, Seq: 5}, {Epoch: 1, Seq: 9}}, Last: base.Position{Epoch: 1, Seq: 9}}}),
		"history without start":    AppendFollow(nil, leadership.FollowRequest{History: leadership.History{Last: base.Position{Epoch: 1, Seq: 9}}}),
		"unknown plan":             AppendPlan(nil, leadership.Plan{Kind: 99}),
		"unknown flag":             append(begin(nil, KindPromiseRequest), 8, 1, 1),
		"long text":                append(begin(nil, KindAway), 1, 1, 0xff, 0xff, 3),
		"varint with a spare byte": append(begin(nil, KindAway), 0x81, 0, 1, 0),
		"bytes left over":          append(begin(nil, KindAway), 1, 1, 0, 0),
		"lease without end":        append(append(begin(nil, KindPromiseReply), 0, 1, 1, 1, 1, 1), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
	} {
		seal(msg)
		if _, err := recode(msg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestTextIsCut(t *testing.T) {
	a, err := DecodeAway(AppendAway(nil, Away{Reason: strings.Repeat("x", 5000)}))
	if err != nil || len(a.Reason) != MaxText {
		t.Errorf("%d bytes, %v", len(a.Reason), err)
	}
}

// FuzzDecode: what is accepted is what would have been written.
func FuzzDecode(f *testing.F) {
	for _, s := range samples() {
		f.Add(s.msg)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		for _, m := range [][]byte{msg, resealed(msg)} {
			if got, err := recode(m); err == nil && !bytes.Equal(got, m) {
				t.Errorf("%x is written as %x", m, got)
			}
		}
	})
}

// resealed gives a mutated message a right checksum, so that fuzzing gets past it.
func resealed(msg []byte) []byte {
	if len(msg) < headerSize {
		return msg
	}
	m := bytes.Clone(msg)
	seal(m)
	return m
}

func BenchmarkPutBatch1MiB(b *testing.B) {
	msg := make([]byte, BatchHeaderSize+1<<20)
	b.SetBytes(1 << 20)
	for b.Loop() {
		PutBatch(msg, Batch{Epoch: 1, First: 1, Last: 2})
	}
}
