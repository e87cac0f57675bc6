package main

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/skeindb/skein/internal/base"
)

const (
	sqliteMagic = "SQLite format 3\x00"
	// reservedAt is where the header says how many bytes each page keeps free;
	// replicas keep their checksums in them, which other programs do not write.
	reservedAt, checksummed = 20, 8
)

// checkDatabaseFile says why a file cannot be sent as a database: it is none,
// it is cut short, or a part of its content lies in files beside it.
func checkDatabaseFile(file *os.File) (fs.FileInfo, error) {
	path := file.Name()
	st, err := file.Stat()
	if err != nil {
		return nil, base.Errorf(base.KindInvalid, "%w", err)
	}
	header := make([]byte, 100)
	if n, err := io.ReadFull(file, header); err != nil || string(header[:len(sqliteMagic)]) != sqliteMagic {
		if n == 0 && errors.Is(err, io.EOF) {
			return nil, base.Errorf(base.KindInvalid, "%s is empty", path).WithHint("Leave --from out to make an empty database.")
		}
		return nil, base.Errorf(base.KindInvalid, "%s is no SQLite database", path)
	}
	if page := pageSize(header); page == 0 || st.Size()%page != 0 {
		return nil, base.Errorf(base.KindInvalid, "%s is cut short: %d bytes are no whole number of pages", path, st.Size())
	}
	if leftover(path, "-wal") {
		e := base.Errorf(base.KindInvalid, "%s-wal holds changes that are not in %s yet", path, path)
		if header[reservedAt] == checksummed {
			return nil, e.WithHint("It is a replica's: start the node on its folder again and stop it in order, and the file holds everything.")
		}
		return nil, e.WithHint("Stop what uses the file and run:  sqlite3 %s 'PRAGMA wal_checkpoint(TRUNCATE);'", quoteShell(path))
	}
	if leftover(path, "-journal") {
		return nil, base.Errorf(base.KindInvalid, "%s-journal may hold a transaction that has to be undone", path).
			WithHint("Stop what uses the file and run:  sqlite3 %s 'SELECT count(*) FROM sqlite_schema;'", quoteShell(path))
	}
	return st, nil
}

// pageSize reads a database's page size from its header; 1 stands for 65536.
func pageSize(header []byte) int64 {
	size := int64(binary.BigEndian.Uint16(header[16:18]))
	if size == 1 {
		size = 65536
	}
	return size
}

// leftover says whether a file beside the database is there and not empty.
func leftover(path, suffix string) bool {
	st, err := os.Stat(path + suffix)
	return err == nil && st.Size() > 0
}
