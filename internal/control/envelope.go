package control

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/skeindb/skein/internal/base"
)

// MaxMessage bounds a message given to Messenger.Send.
const MaxMessage = 1 << 20

// maxBody bounds the body of a request or response.
const maxBody = 8 << 20

// envelopeKind says what an envelope carries.
type envelopeKind byte

const (
	kindRaft         envelopeKind = 1 // a message of the raft group
	kindRemoved      envelopeKind = 2 // tells the receiver that it has been removed
	kindWrongCluster envelopeKind = 3 // tells the receiver that the sender is in another cluster
	kindRequest      envelopeKind = 4
	kindResponse     envelopeKind = 5
)

// envelope is how every message of the control plane travels.
type envelope struct {
	kind    envelopeKind
	cluster uint64
	from    base.NodeID
	to      base.NodeID // 0 where the sender does not know it: a request to join
	body    []byte
}

// The envelope's layout, all integers little-endian:
//
//	0  magic "SKC", version 1
//	4  kind, three zero bytes
//	8  cluster id, sender, receiver: 8 bytes each
//	32 length of the body
//	36 CRC-32C of everything but itself
//	40 body
const (
	envelopeMagic   = "SKC"
	envelopeVersion = 1
	envelopeHeader  = 40
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (e envelope) encode() []byte {
	b := make([]byte, envelopeHeader, envelopeHeader+len(e.body))
	copy(b, envelopeMagic)
	b[3], b[4] = envelopeVersion, byte(e.kind)
	binary.LittleEndian.PutUint64(b[8:], e.cluster)
	binary.LittleEndian.PutUint64(b[16:], uint64(e.from))
	binary.LittleEndian.PutUint64(b[24:], uint64(e.to))
	binary.LittleEndian.PutUint32(b[32:], uint32(len(e.body)))
	b = append(b, e.body...)
	binary.LittleEndian.PutUint32(b[36:], envelopeSum(b))
	return b
}

func envelopeSum(b []byte) uint32 {
	sum := crc32.Update(0, castagnoli, b[:36])
	return crc32.Update(sum, castagnoli, b[envelopeHeader:])
}

// decodeEnvelope reads what encode wrote; the body shares b's memory.
func decodeEnvelope(b []byte) (envelope, error) {
	switch {
	case len(b) < envelopeHeader || string(b[:3]) != envelopeMagic:
		return envelope{}, base.Errorf(base.KindCorrupt, "%d bytes are no message of the control plane", len(b))
	case b[3] != envelopeVersion:
		return envelope{}, base.Errorf(base.KindUnsupported, "control message version %d: this program knows version %d", b[3], envelopeVersion)
	case len(b) > envelopeHeader+maxBody:
		return envelope{}, base.Errorf(base.KindTooLarge, "control message of %d bytes; the limit is %d", len(b), maxBody)
	case binary.LittleEndian.Uint32(b[32:]) != uint32(len(b)-envelopeHeader):
		return envelope{}, base.Errorf(base.KindCorrupt, "control message is cut off")
	case binary.LittleEndian.Uint32(b[36:]) != envelopeSum(b):
		return envelope{}, base.Errorf(base.KindCorrupt, "control message fails its checksum")
	}
	e := envelope{
		kind:    envelopeKind(b[4]),
		cluster: binary.LittleEndian.Uint64(b[8:]),
		from:    base.NodeID(binary.LittleEndian.Uint64(b[16:])),
		to:      base.NodeID(binary.LittleEndian.Uint64(b[24:])),
		body:    b[envelopeHeader:],
	}
	if e.kind < kindRaft || e.kind > kindResponse || b[5]|b[6]|b[7] != 0 {
		return envelope{}, base.Errorf(base.KindUnsupported, "control message kind %d is not known", e.kind)
	}
	return e, nil
}

func wrongCluster(theirs, ours uint64) *base.Error {
	return base.Errorf(base.KindWrongCluster, "the peer is in cluster %016x, this node in %016x", theirs, ours).
		WithHint("check the peer addresses; a node moves to another cluster with an empty data folder only")
}
