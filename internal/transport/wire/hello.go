package wire

import (
	"encoding/binary"
	"hash/crc32"
	"slices"

	"github.com/skeindb/skein/internal/base"
)

// Protocol versions that this code speaks.
const (
	newestVersion = 1
	oldestVersion = 1
)

// class says what a connection is for.
type class uint8

const (
	classControl   class = 1 // control messages; the probe
	classStream    class = 2 // streams
	classCall      class = 3 // calls, and streams of the session services
	classFile      class = 4 // one file
	classBootstrap class = 5 // one call of a node that does not know whom it calls
	classDirect    class = 6 // one stream
)

// hello is the first thing that each side of a connection says.
type hello struct {
	newest, oldest uint16 // versions of the protocol that the sender speaks
	class          class
	cluster        uint64      // zero: not known yet, only with classBootstrap
	from           base.NodeID // the sender
	to             base.NodeID // whom it means to reach; zero: anybody, only with classBootstrap
	instance       uint64      // drawn when the sender's process started
	serial         uint64      // counts the connections of that instance
}

const (
	helloMagic  = "SKN1"
	helloLength = 56
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errHello = base.Errorf(base.KindInvalid, "this is no hello of a node")
)

func (h hello) encode() []byte {
	b := make([]byte, 0, helloLength)
	b = append(b, helloMagic...)
	b = binary.LittleEndian.AppendUint16(b, h.newest)
	b = binary.LittleEndian.AppendUint16(b, h.oldest)
	b = append(b, byte(h.class), 0, 0, 0)
	for _, v := range []uint64{h.cluster, uint64(h.from), uint64(h.to), h.instance, h.serial} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeHello(b []byte) (hello, error) {
	if len(b) != helloLength || string(b[:4]) != helloMagic {
		return hello{}, errHello
	}
	body, sum := b[:helloLength-4], binary.LittleEndian.Uint32(b[helloLength-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return hello{}, errHello
	}
	field := func(i int) uint64 { return binary.LittleEndian.Uint64(b[12+8*i:]) }
	return hello{
		newest: binary.LittleEndian.Uint16(b[4:]), oldest: binary.LittleEndian.Uint16(b[6:]),
		class: class(b[8]), cluster: field(0), from: base.NodeID(field(1)), to: base.NodeID(field(2)),
		instance: field(3), serial: field(4),
	}, nil
}

// self is what a node knows of itself when it judges a hello.
type self struct {
	node     base.NodeID
	cluster  uint64 // zero: not known yet
	instance uint64
}

// accept judges the hello of a node that has connected. certified is the id in
// its certificate, or zero without TLS; classes are those of the protocol that
// it speaks.
func (s self) accept(h hello, certified base.NodeID, classes ...class) error {
	bootstrap := h.class == classBootstrap
	switch {
	case !slices.Contains(classes, h.class) || h.from == 0:
		return base.Errorf(base.KindInvalid, "hello of class %d from node %s", h.class, h.from)
	case certified != 0 && h.from != certified:
		return base.Errorf(base.KindWrongCluster, "node %s says that it is node %s", certified, h.from)
	case s.cluster == 0:
		return base.Errorf(base.KindUnavailable, "node %s has not joined a cluster yet", s.node)
	case h.cluster != s.cluster && !(bootstrap && h.cluster == 0):
		return base.Errorf(base.KindWrongCluster, "this node is of cluster %016x, not of %016x", s.cluster, h.cluster)
	case h.to != s.node && !(bootstrap && h.to == 0):
		return base.Errorf(base.KindWrongCluster, "this is node %s, not node %s", s.node, h.to).
			WithHint("the addresses of two nodes may have been exchanged")
	case h.from == s.node && h.instance != s.instance:
		return base.Errorf(base.KindWrongCluster, "two processes say that they are node %s", s.node).
			WithHint("a data folder may have been copied; remove one copy")
	}
	return h.speaksWithUs()
}

// expect judges the answer to a hello that was sent to node want; want zero
// accepts any node.
func (s self) expect(h hello, want, certified base.NodeID) error {
	switch {
	case certified != 0 && h.from != certified, h.from == 0:
		return base.Errorf(base.KindWrongCluster, "node %s says that it is node %s", certified, h.from)
	case s.cluster != 0 && h.cluster != s.cluster:
		return base.Errorf(base.KindWrongCluster, "the peer is of cluster %016x, this node of %016x", h.cluster, s.cluster)
	case want != 0 && h.from != want:
		return base.Errorf(base.KindWrongCluster, "reached node %s, want node %s", h.from, want)
	}
	return h.speaksWithUs()
}

func (h hello) speaksWithUs() error {
	if h.oldest > newestVersion || h.newest < oldestVersion {
		return base.Errorf(base.KindUnsupported, "the peer speaks versions %d to %d of the protocol, this node %d to %d",
			h.oldest, h.newest, oldestVersion, newestVersion).WithHint("upgrade the older of the two nodes")
	}
	return nil
}
