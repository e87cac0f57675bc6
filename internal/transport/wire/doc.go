// Package wire is package transport over the network: gRPC with raw bytes for
// messages, calls and streams, plain HTTP with ranges for files, both behind
// one listener and both over mutual TLS 1.3.
//
// It owns the node's peer listener, its connections to peers, and the
// knowledge of how each peer can be reached. To every peer it keeps up to
// three connections, so that no class of traffic waits for another: control
// messages (always connected; it is also the probe), streams, and calls with
// session streams. A file is fetched on a connection of its own. So is a direct
// stream, whose messages go without gRPC: a commit waits for them. One such
// connection to each peer is kept ready, since writes wait for followers that
// get a new leader. A connection that a broken network has slowed down is not
// waited for: another takes its place, and it is closed behind what is under way.
//
// Invariants: a connection carries nothing before both sides have said hello
// and agree on protocol version, cluster and who is who; a connection object
// is one TCP connection and never reconnects, so that a request without one
// was certainly not delivered; every queue, wait and message has a bound; no
// lock is held over a call of a handler or of the network.
//
// The format is described in docs/format/peer.md. The package must not import
// anything that gives a meaning to what it carries.
package wire
