package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/skeindb/skein/test/process"
)

// binary is the program under test.
var binary string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

// buildAndRun builds the program once for all tests.
func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "skein-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if binary, err = process.Build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// full skips a test that is not part of the short run.
func full(t *testing.T) {
	t.Helper()
	if os.Getenv("SKEIN_E2E") == "" {
		t.Skip("set SKEIN_E2E=1 to run the whole end-to-end suite")
	}
}

// tool finds a program of another project, or skips.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed; this test needs it", name)
	}
	return path
}

// long chooses the longer of two durations in a long run.
func long(short, patient time.Duration) time.Duration {
	if os.Getenv("SKEIN_E2E_LONG") != "" {
		return patient
	}
	return short
}

// patience bounds every wait for something that must happen.
const patience = 40 * time.Second

// eventually asks until the answer is nil, and fails with the last one at the
// deadline.
func eventually(t *testing.T, within time.Duration, what string, ask func() error) {
	t.Helper()
	end := time.Now().Add(within)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
