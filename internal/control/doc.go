// Package control is the shell of the control plane: it keeps the catalog the
// same on all nodes by consensus (go.etcd.io/raft) and is the only way to
// change it. No row of a user's passes through it.
//
// It owns the file control.db (the group's log, its promises and a snapshot of
// the catalog), the messages between the control planes of two nodes, and who
// votes. What a command means is package catalog's. docs/format/control.md
// describes both formats.
//
// One goroutine, Run, owns the raft group, the log and the file; everything
// else reaches it through a bounded inbox and reads what it publishes. Promises
// (term, vote, entries) are on disk before the messages that tell of them are
// sent. A write to the file that fails stops the control plane for good: it is
// never tried again.
//
// A node is idle until it founds a cluster (Bootstrap) or is taken into one
// (Join). It follows as a learner first; the leader makes it a voter as long as
// there are fewer than MaxVoters, keeping their number odd above two.
//
// Time, randomness and disk come from env, but for the jitter of elections,
// which the raft library draws from crypto/rand.Reader itself.
package control
