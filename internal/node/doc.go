// Package node puts the parts of one Skein node together: transport, control
// plane, the replicas that the control plane places here, the supervisor while
// this node leads the control plane, the gateway for sessions, and deliveries to
// the webhooks of the databases that this node leads. The binary, the Go library,
// tests and simulators all build nodes here and nowhere else.
//
// It owns the data folder: node.json (who this node is), control.db, and one
// folder a database below db/. Its goroutines are Run's: one follows the
// control plane's state, one a replica, one the supervisor, one looks which
// webhooks to deliver to and has one goroutine for each; Close waits for all of them.
//
// Front ends (pgwire, HTTP, the command line) stand above it and are not
// imported.
package node
