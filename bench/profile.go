package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"

	"github.com/skeindb/skein/internal/config"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/server"
)

// profiledNode is what this program does when it is started as `bench node
// CONFIG PROFILE`: the same node as `skein serve`, which keeps a CPU profile
// between SIGUSR1 and SIGUSR2.
func profiledNode(file, profile string) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	settings, err := config.Load(config.Sources{File: file})
	if err != nil {
		return err
	}
	e := env.Real(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	s, err := server.Open(context.Background(), e, settings, "profiled")
	if err != nil {
		return err
	}
	var to *os.File
	for {
		switch sig := <-signals; sig {
		case syscall.SIGUSR1:
			if to, err = os.Create(profile); err == nil {
				err = pprof.StartCPUProfile(to)
			}
		case syscall.SIGUSR2:
			pprof.StopCPUProfile()
			err = to.Close()
		default:
			return s.Close()
		}
		if err != nil {
			return fmt.Errorf("profile: %w", err)
		}
	}
}
