// Package golden compares what a test has made with a file that was checked in,
// so that formats and outputs change only when somebody means it.
//
// It owns nothing but that comparison. `go test -rewrite` writes the files anew;
// the flag is that of package datadriven, whose transcripts follow it too.
package golden

import (
	"flag"
	"os"
	"testing"

	_ "github.com/cockroachdb/datadriven" // defines -rewrite
)

// Check fails the test unless the file holds what was made. It returns what the
// file holds.
func Check(t testing.TB, path, made string) string {
	t.Helper()
	kept := Kept(t, path, made)
	if made != kept {
		t.Errorf("%s should be\n%s\nbut was made as\n%s", path, kept, made)
	}
	return kept
}

// Kept returns what the file holds, for formats that are read for ever but may
// be written in another way. What was made is only written, by -rewrite.
func Kept(t testing.TB, path, made string) string {
	t.Helper()
	if flag.Lookup("rewrite").Value.String() == "true" {
		if err := os.WriteFile(path, []byte(made), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(kept)
}
