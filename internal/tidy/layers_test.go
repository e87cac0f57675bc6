package tidy

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// The layers, lowest first. A package imports lower layers, and its own where
// the layer says so.
const (
	leaves = iota
	cores  // pure: no time-reading, disk, socket, goroutine
	shells // do the input and output of the cores
	composition
	fronts
	programs
	tools // tests and what they share; nothing imports them
)

var layers = map[string]int{
	"internal/base":    leaves,
	"internal/env":     leaves,
	"internal/planted": leaves,

	"internal/catalog":          cores,
	"internal/changefeed":       cores,
	"internal/check":            cores,
	"internal/check/timeline":   cores,
	"internal/choice":           cores,
	"internal/entry":            cores,
	"internal/failover":         cores,
	"internal/jsonvalue":        cores,
	"internal/leadership":       cores,
	"internal/pgwire/oid":       cores,
	"internal/replica":          cores,
	"internal/replica/stream":   cores,
	"internal/rowformat":        cores,
	"internal/session":          cores,
	"internal/sqltext":          cores,
	"internal/statementformat":  cores,
	"internal/pageformat":       cores,
	"internal/sqlite/walformat": cores,
	"internal/triggerformat":    cores,
	"internal/token":            cores,

	"internal/capture/row":       shells,
	"internal/capture/statement": shells,
	"internal/capture/trigger":   shells,
	"internal/changelog":         shells,
	"internal/control":           shells,
	"internal/env/crashfs":       shells,
	"internal/gateway":           shells,
	"internal/partial":           shells,
	"internal/pki":               shells,
	"internal/replica/leader":    shells,
	"internal/scramsecret":       shells,
	"internal/sqlite":            shells,
	"internal/sqlite/diskvfs":    shells,
	"internal/transport":         shells,
	"internal/transport/mem":     shells,
	"internal/transport/wire":    shells,
	"internal/webhook":           shells,

	"internal/node": composition,
	"internal/sim":  composition,

	"internal/adminclient":      fronts,
	"internal/config":           fronts,
	"internal/devcluster":       fronts,
	"internal/httpapi":          fronts,
	"internal/pgwire":           fronts,
	"internal/pgwire/catalogue": fronts,
	"internal/server":           fronts,
	"internal/shell":            fronts,

	"":             programs,
	"cmd/skein":    programs,
	"cmd/skeinsim": programs,

	"internal/capture/capturetest":     tools,
	"internal/control/controltest":     tools,
	"internal/golden":                  tools,
	"internal/httpapi/httpapitest":     tools,
	"internal/tidy":                    tools,
	"internal/transport/transporttest": tools,
	"bench":                            tools,
}

// layerOf also knows packages that are named by their folder alone.
func layerOf(folder string) (int, bool) {
	if layer, ok := layers[folder]; ok {
		return layer, true
	}
	if strings.HasPrefix(folder, "test/") || strings.HasPrefix(folder, "bench/") {
		return tools, true
	}
	return 0, false
}

// isFrontEnd says which packages see session and the contracts below it, and
// never the engine: all of their layer but server, which starts them.
func isFrontEnd(folder string) bool {
	return layers[folder] == fronts && folder != "internal/server"
}

// seenByFrontEnds are the packages below their own layer that front ends may
// import, apart from the leaves.
var seenByFrontEnds = []string{
	"internal/changefeed",
	"internal/choice", // the triggers that say what is sent
	"internal/jsonvalue",
	"internal/pgwire/oid",
	"internal/pki",     // certificates towards clients and peers
	"internal/replica", // what a replica tells of itself
	"internal/session",
	"internal/sqltext",
	"internal/token",
}

// arrows are single imports that the layers alone would refuse.
var arrows = map[string]string{
	"internal/pgwire/catalogue -> internal/sqlite": "its catalog tables are an SQLite database in memory, of its own",
	"bench -> test/netns":                          "leaders are cut off by the network as in the tests",
	"cmd/skein -> github.com/ncruces/go-sqlite3":   "a downloaded snapshot is checked as any SQLite would open it, not as a replica's file",
}

func TestImportsPointDownwards(t *testing.T) {
	read := load(t)
	for _, folder := range slices.Sorted(maps.Keys(read.packages)) {
		layer, known := layerOf(folder)
		if !known {
			t.Errorf("%s has no layer: add it to the table in internal/tidy", folder)
			continue
		}
		for _, path := range read.packages[folder].Imports {
			if target, ours := ownFolder(path); ours && arrows[folder+" -> "+target] == "" {
				checkArrow(t, folder, layer, target)
			}
		}
	}
}

func checkArrow(t *testing.T, folder string, layer int, target string) {
	t.Helper()
	below, _ := layerOf(target)
	switch {
	case below > layer, below == tools, layer == leaves:
		t.Errorf("%s imports %s, which is not below it", folder, target)
	case layer == cores && target == "internal/env":
		t.Errorf("%s imports %s: a core takes time and randomness as arguments", folder, target)
	case isFrontEnd(folder) && below != leaves && below != fronts && !slices.Contains(seenByFrontEnds, target):
		t.Errorf("%s imports %s: front ends see session, not what is behind it", folder, target)
	}
}

// narrow names the packages that may be imported by one folder only, and why.
var narrow = map[string]struct {
	by  []string
	why string
}{
	"github.com/ncruces/go-sqlite3":    {[]string{"internal/sqlite", "internal/sqlite/diskvfs"}, "the engine has one door"},
	"go.etcd.io/raft/v3":               {[]string{"internal/control"}, "consensus is for the control plane only"},
	"google.golang.org/grpc":           {[]string{"internal/transport/wire"}, "what passes between nodes has one door"},
	"github.com/jackc/pgx/v5/pgproto3": {[]string{"internal/pgwire"}, "PostgreSQL's protocol has one server"},
	"github.com/spf13/cobra":           {[]string{"cmd/skein"}, "commands are a matter of the binary"},
	"github.com/BurntSushi/toml":       {[]string{"internal/config"}, "settings have one reader"},
	"github.com/reeflective/readline":  {[]string{"internal/shell"}, "only the shell talks to a terminal"},
	"github.com/prometheus/client_golang": {
		[]string{"internal/httpapi", "internal/server"}, "metrics are gathered by the server"},
}

func TestLibrariesHaveOneUser(t *testing.T) {
	read := load(t)
	for _, s := range read.sources {
		if s.test {
			continue
		}
		for _, spec := range s.file.Imports {
			path := strings.Trim(spec.Path.Value, `"`)
			for library, rule := range narrow {
				if (path == library || strings.HasPrefix(path, library+"/")) && !slices.Contains(rule.by, s.folder) && arrows[s.folder+" -> "+path] == "" {
					t.Errorf("%s imports %s, which is for %v: %s", s.at(spec), path, rule.by, rule.why)
				}
			}
		}
	}
}

// light are packages that programs of others import or that must start at
// once: neither the engine nor consensus may come with them.
var light = []string{"internal/adminclient", "internal/session", "internal/shell", "internal/sqltext", "internal/token"}

func TestClientsComeWithoutTheEngine(t *testing.T) {
	read := load(t)
	for _, folder := range light {
		for _, dep := range read.packages[folder].Deps {
			if strings.HasPrefix(dep, "github.com/ncruces/") || strings.HasPrefix(dep, "go.etcd.io/") {
				t.Errorf("%s depends on %s", folder, dep)
			}
		}
	}
}

// impure are the packages of the standard library that no core may import.
var impure = []string{"crypto/rand", "io/ioutil", "log", "log/slog", "math/rand", "math/rand/v2", "net", "net/http", "os", "os/exec", "runtime", "sync", "sync/atomic", "syscall", "unsafe"}

func TestCoresArePure(t *testing.T) {
	read := load(t)
	for _, s := range read.sources {
		layer, _ := layerOf(s.folder)
		if s.test || s.folder == "internal/env" || (layer != cores && layer != leaves) {
			continue
		}
		for _, spec := range s.file.Imports {
			if path := strings.Trim(spec.Path.Value, `"`); slices.Contains(impure, path) {
				t.Errorf("%s imports %s", s.at(spec), path)
			}
		}
		checkNoGoroutines(t, s)
	}
}

func TestNothingImportsTests(t *testing.T) {
	read := load(t)
	for folder, p := range read.packages {
		if layer, _ := layerOf(folder); layer == tools || folder == "internal/sim" || folder == "cmd/skeinsim" {
			continue // Virtual time is a part of package testing.
		}
		for _, path := range p.Imports {
			if path == "testing" || strings.HasPrefix(path, "pgregory.net/rapid") || strings.HasPrefix(path, "github.com/cockroachdb/datadriven") {
				t.Errorf("%s imports %s outside its tests", folder, path)
			}
		}
	}
}
