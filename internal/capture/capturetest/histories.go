package capturetest

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

var (
	histories = flag.Int("histories", 0, "random histories to run; 0: as many as the test does usually")
	firstSeed = flag.Uint64("seed", 1, "seed of the first history")
)

// Log is what a history has executed.
type Log []string

// Add adds a statement.
func (l *Log) Add(sql string) { *l = append(*l, sql) }

// Note says what came of the last one.
func (l Log) Note(outcome string) { l[len(l)-1] += " -- " + outcome }

// Histories runs random histories, each in a test of its own, and returns how
// many. What they have tried can be judged when they are as many as usual.
func Histories(t *testing.T, usual int, run func(t *testing.T, g *Generator, log *Log)) int {
	n := usual
	if *histories > 0 {
		n = *histories
	}
	for i := range n {
		seed := *firstSeed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			var log Log
			defer func() {
				if t.Failed() {
					t.Logf("again with: go test -run %s -histories 1 -seed %d", strings.Split(t.Name(), "/")[0], seed)
					t.Logf("statements:\n%s", strings.Join(log, ";\n"))
				}
			}()
			run(t, &Generator{Rand: rand.New(rand.NewPCG(seed, 0))}, &log)
		})
	}
	return n
}
