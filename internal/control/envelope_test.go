package control

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/golden"
)

func exampleEnvelope() envelope {
	return envelope{kind: kindRequest, cluster: 0x0123456789abcdef, from: 1, to: 0xfedcba9876543210, body: []byte(`{"command":null}`)}
}

func TestEnvelopeIsGolden(t *testing.T) {
	b := exampleEnvelope().encode()
	golden.Check(t, "testdata/envelope.hex", hex.Dump(b))
	e, err := decodeEnvelope(b)
	if err != nil || e.kind != kindRequest || e.cluster != 0x0123456789abcdef || e.from != 1 || e.to != 0xfedcba9876543210 {
		t.Errorf("decoded %+v, %v", e, err)
	}
}

func TestEveryDamagedByteIsFound(t *testing.T) {
	good := exampleEnvelope().encode()
	for i := range good {
		bad := bytes.Clone(good)
		bad[i]++
		if _, err := decodeEnvelope(bad); err == nil {
			t.Errorf("a change of byte %d passes", i)
		}
		if _, err := decodeEnvelope(good[:i]); err == nil {
			t.Errorf("%d bytes of %d pass", i, len(good))
		}
	}
	later := bytes.Clone(good)
	later[3] = 2
	if _, err := decodeEnvelope(later); base.KindOf(err) != base.KindUnsupported {
		t.Errorf("a later version: %v", err)
	}
}

func FuzzDecodeEnvelope(f *testing.F) {
	f.Add(exampleEnvelope().encode())
	f.Add(envelope{kind: kindRemoved}.encode())
	f.Add([]byte("SKC\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEnvelope(b)
		if err == nil && !bytes.Equal(e.encode(), b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, e, e.encode())
		}
	})
}

func FuzzDecodeSnapshotData(f *testing.F) {
	f.Add(encodeSnapshotData(catalog.New()))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x7f, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSnapshotData(b)
		if err != nil {
			return
		}
		if again, err := decodeSnapshotData(encodeSnapshotData(s)); err != nil || !bytes.Equal(again.Encode(), s.Encode()) {
			t.Errorf("a decoded state does not survive encoding: %v", err)
		}
	})
}

func TestNextDuty(t *testing.T) {
	everyone := func(base.NodeID) bool { return true }
	node := func(id base.NodeID, st catalog.NodeState, voter bool) catalog.Node {
		return catalog.Node{ID: id, State: st, Voter: voter, JoinedAt: uint64(id)}
	}
	const active, joining, dead = catalog.NodeIsActive, catalog.NodeJoining, catalog.NodeDead
	for name, c := range map[string]struct {
		nodes []catalog.Node
		level func(base.NodeID) bool
		want  catalog.Action
		self  base.NodeID // 0: node 1
	}{
		"a node alone":                {[]catalog.Node{node(1, active, true)}, everyone, nil, 0},
		"a newcomer is behind":        {[]catalog.Node{node(1, active, true), node(2, joining, false)}, func(base.NodeID) bool { return false }, nil, 0},
		"a newcomer has caught up":    {[]catalog.Node{node(1, active, true), node(2, joining, false)}, everyone, catalog.NodeActive{Node: 2}, 0},
		"two vote":                    {[]catalog.Node{node(1, active, true), node(2, active, false)}, everyone, catalog.SetVoter{Node: 2, Voter: true}, 0},
		"a fourth does not":           {[]catalog.Node{node(1, active, true), node(2, active, true), node(3, active, true), node(4, active, false)}, everyone, nil, 0},
		"a dead one does not":         {[]catalog.Node{node(1, active, true), node(2, dead, true), node(3, active, true)}, func(id base.NodeID) bool { return id != 2 }, catalog.SetVoter{Node: 2}, 0},
		"a dead one has returned":     {[]catalog.Node{node(1, active, true), node(2, dead, false)}, everyone, catalog.NodeActive{Node: 2}, 0},
		"the youngest of four yields": {[]catalog.Node{node(1, active, true), node(2, active, true), node(3, active, true), node(4, active, true)}, everyone, catalog.SetVoter{Node: 4}, 0},
		"but not the leader":          {[]catalog.Node{node(1, active, true), node(2, active, true), node(3, active, true), node(4, active, true)}, everyone, catalog.SetVoter{Node: 3}, 4},
	} {
		if got := nextDuty(c.nodes, max(c.self, 1), c.level, 5); got != c.want {
			t.Errorf("%s: %+v; want %+v", name, got, c.want)
		}
	}
}

// TestRowSumsAreGolden fails when old files would no longer be read.
func TestRowSumsAreGolden(t *testing.T) {
	for _, c := range []struct {
		kind string
		row  []base.Value
		want uint32
	}{
		{"identity", []base.Value{number(1), number(77), number(1<<63 + 1)}, 0x49916813},
		{"entry", []base.Value{number(5), number(2), number(0), base.BlobValue([]byte("data"))}, 0x8259f3bc},
		{"snapshot", []base.Value{number(5), number(2), base.BlobValue(nil), base.BlobValue([]byte("data"))}, 0x725f9cdc},
	} {
		if got := rowSum(c.kind, c.row); got != c.want {
			t.Errorf("%s: %#08x; want %#08x", c.kind, got, c.want)
		}
	}
}
