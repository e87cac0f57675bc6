package crashfs_test

import (
	"testing"

	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/env/crashfs"
)

func TestFoldersThatWereMadeOutliveEveryCrash(t *testing.T) {
	for seed := range uint64(50) {
		d := crashfs.New()
		if seed%2 == 0 {
			must(t, d.MkdirAll("/a/b/c", 0o700)) // And the process has died before it went on.
			must(t, d.SyncDir("/"))
			must(t, d.SyncDir("/a"))
		}
		must(t, env.MakeDir(d, "/a/b/c", 0o700))
		must(t, env.WriteFile(d, "/a/b/c", "file", []byte("kept")))
		d.Crash(seed)
		if got, err := d.ReadFile("/a/b/c/file"); err != nil || string(got) != "kept" {
			t.Errorf("seed %d: %q, %v", seed, got, err)
		}
	}
}
