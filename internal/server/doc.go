// Package server is a node with its front ends: PostgreSQL wire, HTTP and
// metrics. It implements httpapi.Node over package node, gathering from the
// other nodes what only they know.
//
// It owns the listeners for clients and nothing else; node owns all data.
package server
