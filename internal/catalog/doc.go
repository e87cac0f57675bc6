// Package catalog is the state machine of the control plane: which nodes
// belong to the cluster, which databases exist, where they live, who leads
// them in which epoch, and who may log in.
//
// It owns the meaning of every command and the encoding of commands and state
// (docs/format/control.md). It is pure: the same commands in the same order
// give the same state, byte for byte, on every node. It imports base,
// leadership and the standard library's encoders, and no clock, random source,
// socket, file or goroutine; nothing in it depends on the order of a map.
//
// Invariants, kept by every command:
//   - an epoch of a database never falls, and has at most one leader;
//   - a database's leader is 0 or one of its replicas that has a full copy;
//   - a database that is not dropped has at least one replica with a full copy
//     on which elections count;
//   - database ids are counted up and never used twice;
//   - a command whose id has been seen changes nothing and returns its first
//     result, as long as fewer than RecentCommands commands came in between.
package catalog
