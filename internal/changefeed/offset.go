package changefeed

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"

	"github.com/skeindb/skein/internal/base"
)

// Offset is a place in the changes of a database. The zero Offset is none.
type Offset struct {
	Database base.DatabaseID
	// Position of the last change that was delivered.
	Position base.Position
	// Entry is the first seq of the log entry to read next: that of the last
	// change when there is more in its transaction, else the seq behind it.
	Entry base.Seq
	// Snapshot says that a snapshot was not delivered whole: it begins anew.
	Snapshot bool
}

const (
	offsetVersion = 1
	maxOffset     = 64 // bytes of text
	flagSnapshot  = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// String returns the offset as text; "" for the zero Offset.
func (o Offset) String() string {
	if o == (Offset{}) {
		return ""
	}
	var flags byte
	if o.Snapshot {
		flags = flagSnapshot
	}
	b := []byte{offsetVersion, flags}
	b = binary.AppendUvarint(b, uint64(o.Database))
	b = binary.AppendUvarint(b, uint64(o.Position.Epoch))
	b = binary.AppendUvarint(b, uint64(o.Position.Seq))
	b = binary.AppendUvarint(b, uint64(o.Position.Seq+1-o.Entry)) // How much of the entry was delivered.
	sum := crc32.Checksum(b, castagnoli)
	b = append(b, byte(sum), byte(sum>>8), byte(sum>>16))
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseOffset reads what String wrote, and nothing else.
func ParseOffset(text string) (Offset, error) {
	if text == "" {
		return Offset{}, nil
	}
	o, ok := decodeOffset(text)
	if !ok || o.String() != text {
		return Offset{}, base.Errorf(base.KindInvalid, "offset %.80q is not one that a stream of changes has given", text)
	}
	return o, nil
}

func decodeOffset(text string) (o Offset, ok bool) {
	if len(text) > maxOffset {
		return o, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < 5 || b[0] != offsetVersion || b[1]&^flagSnapshot != 0 {
		return o, false
	}
	rest := b[2 : len(b)-3]
	var v [4]uint64
	for i := range v {
		n := 0
		if v[i], n = binary.Uvarint(rest); n <= 0 {
			return o, false
		}
		rest = rest[n:]
	}
	if len(rest) > 0 || v[0] == 0 || v[2] == 1<<64-1 || v[3] > v[2] {
		return o, false
	}
	o = Offset{
		Database: base.DatabaseID(v[0]), Position: base.Position{Epoch: base.Epoch(v[1]), Seq: base.Seq(v[2])},
		Entry: base.Seq(v[2] + 1 - v[3]), Snapshot: b[1] == flagSnapshot,
	}
	return o, true
}
