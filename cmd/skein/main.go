// Command skein is SQLite, replicated: the node, a cluster for development, and
// the tools to look at and manage a cluster.
//
// Commands here are thin: each file holds one, which reads flags, calls a
// package below internal and prints. wire.go alone knows the engine.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/term"

	"github.com/skeindb/skein/internal/env"
)

// leastProcs is how many threads may run Go code at least: while one of two waits
// for a disk, and is not taken back at once, the other is not enough for those who
// read, write and follow.
const leastProcs = 4

func main() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(leastProcs, runtime.GOMAXPROCS(0)))
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	a := &app{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		inTerminal: isTerminal(os.Stdin), outTerminal: isTerminal(os.Stdout), errTerminal: isTerminal(os.Stderr),
		lookupEnv: os.LookupEnv, signals: signals,
		env:          env.Real(slog.New(slog.DiscardHandler)),
		readPassword: func() ([]byte, error) { return term.ReadPassword(int(os.Stdin.Fd())) },
	}
	a.exit = exitFunc()
	os.Exit(a.run(context.Background(), os.Args[1:]))
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// exitFunc ends the process and leaves the terminal as it was found: the shell
// may have changed it.
func exitFunc() func(int) {
	state, err := term.GetState(int(os.Stdin.Fd()))
	return func(status int) {
		if err == nil {
			_ = term.Restore(int(os.Stdin.Fd()), state) // The process ends in any case.
		}
		os.Exit(status)
	}
}
