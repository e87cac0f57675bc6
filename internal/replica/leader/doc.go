// Package leader runs one replica of a single-leader database: the shell
// around the pure rules of package leadership.
//
// It owns the replica's folder: the SQLite file, the changelog beside it, the
// orphaned writes and the promise file. Exactly one of three things happens at
// a time, each in goroutines that end before the next begins:
//
//   - leading: a writer goroutine executes clients' statements in group
//     commits, a flusher syncs the log, and one sender per follower ships it;
//   - following: a receiver appends what the leader ships, a flusher syncs and
//     acknowledges, an applier brings SQLite forward;
//   - copying: a snapshot of the leader's file replaces this replica's.
//
// Invariants:
//
//   - A batch is in the log (not necessarily flushed) before SQLite commits it,
//     so that a killed process finds its log at or ahead of SQLite.
//   - A follower commits only what its log has and its leader has called safe
//     (or, when the policy counts applied copies, what its log has flushed). While
//     it is read it executes more, which it commits or rolls back later.
//   - Nothing is acknowledged, and no read's end is handed out, before the
//     sequence number it saw is safe under the policy of the current epoch.
//   - A failed flush ends the replica; it is opened again from its files.
//
// It must not import front ends, the gateway or package node.
package leader
