// Package sqlite is the one door to the SQL engine: connections with a role,
// prepared statements in a cache, the guard that client SQL passes, the
// pre-update hook, and a database as one writer and a pool of readers.
//
// It owns the database file, its -wal and its -shm, every setting of a
// connection, and the mapping of the engine's errors to base.Error. It and
// diskvfs, the file system below it, are the only packages of a node that may
// import the engine's driver; what it hands out are values of package base and
// package session. It knows nothing of logs, epochs or replication, and must
// not import a package above it.
//
// Invariants:
//   - A Conn is used by one goroutine at a time. It is cancelled through the
//     context given to SetInterrupt, which any goroutine may cancel.
//   - At most one writer connection of a Database is open at a time.
//   - No connection checkpoints by itself; the owner calls Checkpoint.
//   - Objects whose names begin with "_skein_" can be neither read nor changed
//     by a statement that was prepared under a client's guard.
//   - A statement is authorised under the guard that it was prepared with,
//     also when a schema change makes the engine compile it again.
//
// Errors that end the whole transaction. The engine rolls back everything, not
// just the statement and not just to the innermost savepoint, when a writing
// statement is interrupted, meets an I/O error, runs out of memory or (without
// a statement journal) out of disk, and on OR ROLLBACK and RAISE(ROLLBACK).
// The error's kind does not tell; ask InTransaction after every error.
package sqlite
