package pgwire

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// psql runs a script in the real client.
func psql(t testing.TB, port int, script string, more ...string) string {
	t.Helper()
	path, err := exec.LookPath("psql")
	if err != nil {
		t.Skip("psql is not installed: what it shows is not checked")
	}
	args := append([]string{"-X", "-h", "127.0.0.1", "-p", strconv.Itoa(port), "-U", "alice", "-d", "main", "-v", "VERBOSITY=verbose", "-f", "-"}, more...)
	cmd := exec.Command(path, args...)
	cmd.Env = append(cmd.Environ(), "PGPASSWORD=secret", "PGSSLMODE=prefer", "LC_ALL=C.UTF-8", "PAGER=cat", "PGTZ=UTC")
	cmd.Stdin = strings.NewReader(script)
	out, _ := cmd.CombinedOutput() // errors of statements are part of what is checked
	return strings.ReplaceAll(string(out), "psql:<stdin>:", "line ")
}

// TestPsql keeps what the real client shows, in testdata/psql.
func TestPsql(t *testing.T) {
	datadriven.Walk(t, "testdata/psql", func(t *testing.T, path string) {
		s := serve(t, Options{})
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return psql(t, s.port, d.Input)
		})
	})
}
