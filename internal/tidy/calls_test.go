package tidy

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// outside are the functions and types that reach time, chance, disk or network
// by themselves. A name that ends in * stands for all that begin so.
var outside = map[string][]string{
	"time": {"Now", "Sleep", "After", "AfterFunc", "Since", "Until", "NewTimer", "NewTicker", "Tick"},
	"os": {"Open*", "Create*", "Read*", "Write*", "Remove*", "Rename", "Mkdir*", "Stat", "Lstat", "Link", "Symlink",
		"Chmod", "Chown", "Chtimes", "Truncate", "Getenv", "LookupEnv", "Environ", "Setenv", "Getwd", "Chdir", "Hostname",
		"Exit", "Getpid", "Executable", "StartProcess", "FindProcess", "TempDir", "UserHomeDir", "UserConfigDir", "DirFS",
		"Stdin", "Stdout", "Stderr", "Args"},
	"os/exec":   {"*"},
	"os/signal": {"*"},
	"net": {"Dial*", "Listen", "ListenConfig", "ListenIP", "ListenMulticastUDP", "ListenPacket", "ListenTCP", "ListenUDP",
		"ListenUnix*", "Lookup*", "Interface*", "DefaultResolver", "Resolver"},
	"net/http":      {"Get", "Post*", "Head", "DefaultClient", "DefaultTransport", "ListenAndServe*"},
	"math/rand":     {"*"},
	"math/rand/v2":  {"*"},
	"crypto/rand":   {"*"},
	"path/filepath": {"Walk*", "Glob", "Abs", "EvalSymlinks"},
	"log":           {"*"},
	"log/slog":      {"Default", "SetDefault", "Debug", "Info", "Warn", "Error"},
}

// allowed are the packages, apart from env, cmd and tests, that may use some
// of them. Every line has its reason.
var allowed = map[string]struct {
	names []string
	why   string
}{
	"internal/adminclient": {[]string{"net.Dialer"}, "runs in the user's process, never in a node"},
	"internal/config":      {[]string{"os.ReadFile", "path/filepath.Abs"}, "reads the operator's settings before there is a node"},
	"internal/devcluster":  {[]string{"os.*", "os/exec.*", "path/filepath.*"}, "starts processes: it stands outside every node"},
	"internal/server":      {[]string{"os.Getpid"}, "tells the operator which process it is; nothing depends on it"},
	"internal/sim": {[]string{"time.*", "math/rand/v2.*", "crypto/rand.*", "os.MkdirAll", "os.RemoveAll", "os.TempDir", "os.Getpid"},
		"it is the outside world of the nodes that it runs"},
	"internal/env/crashfs": {[]string{"math/rand/v2.New", "math/rand/v2.NewPCG", "math/rand/v2.Rand"}, "a generator with a given seed, which is no chance"},
}

func TestOnlyEnvReachesOutside(t *testing.T) {
	read := load(t)
	used := map[string]bool{}
	for _, s := range read.sources {
		layer, _ := layerOf(s.folder)
		if s.test || s.folder == "internal/env" || layer == tools || layer == programs {
			continue
		}
		names := s.imports()
		ast.Inspect(s.file, func(n ast.Node) bool {
			selector, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := selector.X.(*ast.Ident)
			if !ok || !matches(outside[names[x.Name]], selector.Sel.Name) {
				return true
			}
			if !permitted(s.folder, names[x.Name]+"."+selector.Sel.Name, used) {
				t.Errorf("%s uses %s.%s: take it from env", s.at(selector), names[x.Name], selector.Sel.Name)
			}
			return true
		})
	}
	for folder, rule := range allowed {
		for _, name := range rule.names {
			if !used[folder+" "+name] {
				t.Errorf("%s no longer uses %s: drop the line that allows it", folder, name)
			}
		}
	}
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		prefix, open := strings.CutSuffix(p, "*")
		return p == name || open && strings.HasPrefix(name, prefix)
	})
}

func permitted(folder, name string, used map[string]bool) bool {
	for _, p := range allowed[folder].names {
		if matches([]string{p}, name) {
			used[folder+" "+p] = true
			return true
		}
	}
	return false
}

// checkNoGoroutines refuses what would make a core depend on a scheduler.
func checkNoGoroutines(t *testing.T, s source) {
	t.Helper()
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n.(type) {
		case *ast.GoStmt:
			t.Errorf("%s starts a goroutine in a core", s.at(n))
		case *ast.SelectStmt, *ast.SendStmt, *ast.ChanType:
			t.Errorf("%s uses a channel in a core", s.at(n))
		}
		return true
	})
}
