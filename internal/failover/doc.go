// Package failover is the pure core of the supervisor: it notices that a
// database has lost its leader, collects promises, and has the control plane
// record the next one. It runs on whichever node leads the control plane; when
// that changes, a new Supervisor starts from nothing. Promises already given
// stay given, and elections are compare-and-set, so that two supervisors at
// once may hinder but never harm each other. The rules, and why they are
// safe, are written in package leadership.
//
// It owns no clock, socket, file or goroutine; it imports base and leadership.
// Step takes one event and returns what to do, in a fixed order. Nothing is
// retried faster than Config.RetryMin, and every database has at most one
// question under way to each node.
//
// What starts an election, and when:
//
//   - the leader's machine refuses connections, or its node says that it does
//     not lead (Away, after a restart or because its followers know of a later
//     epoch): at once;
//   - the leader is lost, or silent: after the lease and the node's patience,
//     which doubles when the node comes back before that. The replicas are
//     probed first; while too many still hear the leader nothing is done;
//   - the leader says that it is stalled (alive, but its lease is gone): the
//     others are probed, and if they would be enough they are asked;
//   - the leader is no replica any more, or its node is being removed: a
//     switchover to the best of the others;
//   - a database without an epoch is given to a reachable replica at once.
//
// Elections of one database for lost or stalled leaders are at least
// Config.MinBetween apart.
package failover
