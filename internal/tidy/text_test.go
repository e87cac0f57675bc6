package tidy

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// written are the files that people read: not sums, not binary examples.
func written(t *testing.T, read *tree) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, name := range read.files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if name != "go.sum" && !bytes.Contains(text[:min(len(text), 8000)], []byte{0}) {
			texts[name] = string(text)
		}
	}
	return texts
}

var fence = regexp.MustCompile("(?ms)^ *```.*?^ *```")

func TestMarkdownHasOneTitle(t *testing.T) {
	for name, text := range written(t, load(t)) {
		if !strings.HasSuffix(name, ".md") {
			continue
		}
		titles := 0
		for line := range strings.SplitSeq(fence.ReplaceAllString(text, ""), "\n") {
			if strings.HasPrefix(line, "# ") {
				titles++
			}
		}
		if titles != 1 || !strings.HasPrefix(text, "# ") {
			t.Errorf("%s has %d titles; want one, as its first line", name, titles)
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#:\s]+)(#[^)\s]*)?\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	for name, text := range written(t, load(t)) {
		if !strings.HasSuffix(name, ".md") {
			continue
		}
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			if _, err := os.Stat(path.Join(path.Dir(name), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", name, m[1])
			}
		}
	}
}

func TestFormatsAreLinked(t *testing.T) {
	read := load(t)
	architecture, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range read.files {
		if short, ok := strings.CutPrefix(name, "docs/format/"); ok && !bytes.Contains(architecture, []byte("(format/"+short+")")) {
			t.Errorf("docs/architecture.md has no link to %s", name)
		}
	}
}

var requirement = regexp.MustCompile(`(?m)^\t(\S+) v\S+$`)

func TestDependenciesHaveReasons(t *testing.T) {
	load(t)
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	reasons, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	direct := requirement.FindAllSubmatch(mod, -1)
	if len(direct) == 0 {
		t.Fatal("no direct dependency was found in go.mod")
	}
	for _, m := range direct {
		if !bytes.Contains(reasons, append([]byte("`"), append(m[1], '`')...)) {
			t.Errorf("docs/dependencies.md does not say why %s is needed", m[1])
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllSubmatch(reasons, -1) {
		if !bytes.Contains(mod, append(m[1], ' ')) {
			t.Errorf("docs/dependencies.md names %s, which go.mod does not need", m[1])
		}
	}
}

// home matches paths that exist on one machine only.
var home = regexp.MustCompile(`(?:^|[\s"'=(:` + "`" + `])/(?:root|work|home/[a-z]+|tmp/skein[^/ ]*)/`)

// foreign are words that say nothing of Skein, as FNV-1a sums, so that this
// file holds none of them: hosts of package registries, names of products that
// had a hand in no promise made here.
var foreign = []uint64{
	0x04dc255460382976,
	0x0702bf4613658751,
	0x089c3b07b545891f,
	0x11d708fdf1fc1634,
	0x125b69191db94ab8,
	0x15391583df8e395d,
	0x1f621cab7c0f866e,
	0x239194803edf98f7,
	0x2524b426199611b3,
	0x2bc22df03884078d,
	0x2d252c8aa560c4fc,
	0x32d50849c3549cfb,
	0x4622376fa4140cb3,
	0x62a2fa477580fe28,
	0x69c9ab1ecee3f4a8,
	0x69de8c1ecef61c05,
	0x7a3c735f7f6db37f,
	0x7f7a754786a664b8,
	0x8a1b8f4a0a913503,
	0x8d2adc28564d5167,
	0x992460a69dc49529,
	0xa113d2745d706ce3,
	0xac2c9ab25e213f6f,
	0xc550f37d20f6ca83,
	0xd4c80b5a1bd07e8e,
	0xd5235518fae1f922,
	0xde35e608c3c2ca95,
	0xea9e60ad81da16f1,
}

var word = regexp.MustCompile(`[a-z0-9-]+(?:\.[a-z0-9-]+)*`)

func TestNoTraceOfOneMachine(t *testing.T) {
	for name, text := range written(t, load(t)) {
		for number, line := range slices.All(strings.Split(text, "\n")) {
			if m := home.FindString(line); m != "" {
				t.Errorf("%s:%d: %q is a path of one machine", name, number+1, strings.TrimSpace(m))
			}
			if w := foreignWord(line); w != "" {
				t.Errorf("%s:%d: %q has no place here", name, number+1, w)
			}
		}
	}
}

func foreignWord(line string) string {
	for _, w := range word.FindAllString(strings.ToLower(line), -1) {
		for _, part := range append(strings.Split(w, "-"), w) {
			if slices.Contains(foreign, sum(part)) {
				return part
			}
		}
	}
	return ""
}

func sum(s string) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, s)
	return h.Sum64()
}

func TestTheWordCheckWorks(t *testing.T) {
	if len(foreign) == 0 || !slices.IsSorted(foreign) {
		t.Fatal("the list of foreign words must be sorted and not empty")
	}
	if w := foreignWord("look at " + strings.Join([]string{"Registry", "Example", "Invalid"}, ".")); w == "" {
		t.Error("a known foreign word was not found")
	}
	if home.FindString("see "+path.Join("/home", "ann", "notes")) == "" || home.FindString("docs/work/one, at /rooted/") != "" {
		t.Error("paths of one machine are not told from others")
	}
}
