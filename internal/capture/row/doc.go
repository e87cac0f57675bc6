// Package row is the row log format: Recorder captures the row changes of a
// leader's writer connection, Applier makes the same changes on another copy
// or takes them back.
//
// It owns the writer connection's pre-update hook, the knowledge of how a
// table's rows are named and written, and the rule that a follower's copy
// equals the leader's: same values and storage classes, same rowids, same
// sqlite_sequence, same schema text. The bytes are those of package rowformat.
//
// Invariants:
//   - A body holds every change of a transaction that lasted, in the engine's
//     order, and nothing of what was undone. What the hook does not deliver
//     (schema changes, rows of CREATE TABLE AS, sqlite_sequence, planner
//     statistics) is read from the database and added.
//   - A change that cannot be captured makes Err and Take fail; it is never
//     left out silently.
//   - Each update and delete must meet exactly one row and each insert none;
//     otherwise the copies differ and ErrDiverged says where.
//
// It must not import the log, transport or replication packages.
package row
