package sqlite

import (
	"sync"

	"github.com/ncruces/go-sqlite3"
)

// Version is the version of the engine, for people.
var Version = sync.OnceValue(func() string {
	raw, err := sqlite3.Open(":memory:")
	if err != nil {
		return "unknown"
	}
	defer raw.Close()
	st, _, err := raw.Prepare("SELECT sqlite_version()")
	if err != nil {
		return "unknown"
	}
	defer st.Close()
	st.Step()
	return st.ColumnText(0)
})
