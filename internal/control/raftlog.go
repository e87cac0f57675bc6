package control

import (
	"context"
	"fmt"
	"log/slog"
)

// raftLogger hands the library's log lines on. What it calls information and
// warnings is our debugging; what matters of it is logged by the loop.
type raftLogger struct{ log *slog.Logger }

// groupPanic is the library's panic where going on would break a promise. The
// loop tells it from other panics, and stops.
type groupPanic string

func (l raftLogger) line(level slog.Level, args ...any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, fmt.Sprint(args...))
	}
}

func (l raftLogger) linef(level slog.Level, format string, args ...any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, fmt.Sprintf(format, args...))
	}
}

func (l raftLogger) Debug(v ...any)              { l.line(slog.LevelDebug, v...) }
func (l raftLogger) Debugf(f string, v ...any)   { l.linef(slog.LevelDebug, f, v...) }
func (l raftLogger) Info(v ...any)               { l.line(slog.LevelDebug, v...) }
func (l raftLogger) Infof(f string, v ...any)    { l.linef(slog.LevelDebug, f, v...) }
func (l raftLogger) Warning(v ...any)            { l.line(slog.LevelDebug, v...) }
func (l raftLogger) Warningf(f string, v ...any) { l.linef(slog.LevelDebug, f, v...) }
func (l raftLogger) Error(v ...any)              { l.line(slog.LevelError, v...) }
func (l raftLogger) Errorf(f string, v ...any)   { l.linef(slog.LevelError, f, v...) }
func (l raftLogger) Fatal(v ...any)              { panic(groupPanic(fmt.Sprint(v...))) }
func (l raftLogger) Fatalf(f string, v ...any)   { panic(groupPanic(fmt.Sprintf(f, v...))) }
func (l raftLogger) Panic(v ...any)              { panic(groupPanic(fmt.Sprint(v...))) }
func (l raftLogger) Panicf(f string, v ...any)   { panic(groupPanic(fmt.Sprintf(f, v...))) }
