package entry

import (
	"encoding/binary"
	"fmt"
)

// FormatChange is the body of an entry of kind Format: from here on, to the next
// such entry or the end of the epoch, the leader writes transactions in the
// format of that name. An epoch begins in format row.
type FormatChange struct {
	Name    string
	Details []byte // the format's own
}

const (
	formatVersion = 1
	maxFormatName = 64
)

// AppendFormatChange appends the body of an entry of kind Format.
func AppendFormatChange(dst []byte, c FormatChange) []byte {
	dst = append(dst, formatVersion)
	dst = binary.AppendUvarint(dst, uint64(len(c.Name)))
	dst = append(dst, c.Name...)
	return append(dst, c.Details...)
}

// DecodeFormatChange reads the body of an entry of kind Format. Details lies in
// body. The error wraps ErrCorrupt.
func DecodeFormatChange(body []byte) (c FormatChange, err error) {
	if len(body) < 2 || body[0] != formatVersion {
		return c, fmt.Errorf("%w: change of the format: unknown version", ErrCorrupt)
	}
	var size uint64
	n, err := uvarint(body[1:], &size, true)
	if err != nil {
		return c, fmt.Errorf("change of the format: %w", err)
	}
	rest := body[1+n:]
	if size == 0 || size > maxFormatName || size > uint64(len(rest)) {
		return c, fmt.Errorf("%w: change of the format: a name of %d bytes", ErrCorrupt, size)
	}
	return FormatChange{Name: string(rest[:size]), Details: rest[size:]}, nil
}
