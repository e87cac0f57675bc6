// Package statement is the statement log format: Recorder catches the statements
// of a leader's writer connection, with what they take from outside and the rows
// that they change; Replayer executes them elsewhere and says what that changed.
//
// It owns the judgement which statements do the same everywhere. Those that may
// not, or are not known to, travel as rows, with the reason.
//
// Invariants: a body's hash is that of the row changes its leader has made; what
// is recorded is what has lasted, in order; schema changes travel as rows do.
//
// It must not import the log, transport or replication packages.
package statement
