package replica

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// OperationID names one write, whoever executes it. The zero id names nothing.
// A client's name for its write is hashed; what a gateway names for itself is
// drawn at random. A bit tells the two apart, as only clients' are remembered
// for long.
type OperationID [10]byte

const (
	namedBit        = 0x80
	operationPrefix = "op-"
	// MaxOperationName bounds a client's name for a write, in bytes.
	MaxOperationName = 200
)

// NameOperation is the id of a client's name for a write; of the text of an id,
// that id.
func NameOperation(name string) (op OperationID) {
	if digits, ok := strings.CutPrefix(name, operationPrefix); ok && len(digits) == 2*len(op) {
		if b, err := hex.DecodeString(digits); err == nil {
			copy(op[:], b)
			return op
		}
	}
	sum := sha256.Sum256([]byte(name))
	copy(op[:], sum[:])
	op[0] |= namedBit
	return op
}

// Unnamed marks a random id as one that no client has named.
func (op OperationID) Unnamed() OperationID {
	op[0] &^= namedBit
	return op
}

// Named says that a client has named it: then it is applied once, however often
// it is sent.
func (op OperationID) Named() bool { return op[0]&namedBit != 0 }

// String returns a text that NameOperation reads.
func (op OperationID) String() string { return operationPrefix + hex.EncodeToString(op[:]) }
