// Package gateway implements session.Gateway: it classifies each statement,
// sends it to where it must run (this node's replica, or over the transport to
// the leader or another replica), keeps what its client has seen as a token,
// and gives every answer the meaning that the session's settings promise.
//
// It owns no data. A statement that was certainly not executed is sent again
// when the leader changes; one that may have been is never repeated: its error
// says so. Goroutines: none of its own but one for each transaction and read
// that it serves to a peer, which end with the peer's stream.
//
// It must not import front ends, the engine or package node.
package gateway
