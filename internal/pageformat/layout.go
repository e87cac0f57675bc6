package pageformat

import (
	"encoding/binary"
	"fmt"

	"github.com/skeindb/skein/internal/base"
)

// Layout is what a file is like whose pages follow in the log.
type Layout struct {
	PageSize int
	Encoding byte // of text, as in SQLite's header; 1 is UTF-8
	Format   byte // of the file, for reading
	Reserved byte // bytes at the end of each page
}

// What this version can hold.
const (
	utf8Text       = 1
	walFile        = 2
	checksumBytes  = 8
	layoutVersion  = 1
	layoutTailSize = 3
)

// AppendLayout appends the details of a change of the format.
func AppendLayout(dst []byte, l Layout) []byte {
	dst = append(dst, layoutVersion)
	dst = binary.AppendUvarint(dst, uint64(l.PageSize))
	return append(dst, l.Encoding, l.Format, l.Reserved)
}

// DecodeLayout reads the details of a change of the format.
func DecodeLayout(b []byte) (l Layout, err error) {
	if len(b) == 0 || b[0] != layoutVersion {
		return l, fmt.Errorf("%w: unknown version of the file's layout", ErrCorrupt)
	}
	size, rest, err := number(b[1:], maxPageSize)
	if err != nil {
		return l, err
	}
	if len(rest) != layoutTailSize {
		return l, fmt.Errorf("%w: a layout of %d bytes", ErrCorrupt, len(b))
	}
	return Layout{PageSize: int(size), Encoding: rest[0], Format: rest[1], Reserved: rest[2]}, nil
}

// Check refuses a file that this version can't hold.
func (l Layout) Check() error {
	reason := ""
	switch {
	case l.PageSize < minPageSize || l.PageSize > maxPageSize || l.PageSize&(l.PageSize-1) != 0:
		reason = fmt.Sprintf("its pages have %d bytes", l.PageSize)
	case l.Encoding != utf8Text:
		reason = fmt.Sprintf("its text encoding is number %d, not UTF-8", l.Encoding)
	case l.Format != walFile:
		reason = fmt.Sprintf("it has SQLite's file format %d, not %d", l.Format, walFile)
	case l.Reserved != 0 && l.Reserved != checksumBytes:
		reason = fmt.Sprintf("%d bytes of each page are not SQLite's", l.Reserved)
	default:
		return nil
	}
	return base.Errorf(base.KindUnsupported, "the leader's database file can't be held here page by page: %s", reason).
		WithHint("upgrade this node, or choose another log format than wal")
}

// LayoutOf reads the layout from the beginning of a file.
func LayoutOf(header []byte) (l Layout, err error) {
	if len(header) < 100 {
		return l, fmt.Errorf("%w: a header of %d bytes", ErrCorrupt, len(header))
	}
	size := int(binary.BigEndian.Uint16(header[16:]))
	if size == 1 {
		size = maxPageSize
	}
	return Layout{PageSize: size, Encoding: header[59], Format: header[19], Reserved: header[20]}, nil
}
