// Package base holds the words of the project as types: nodes, databases,
// epochs, sequence numbers, positions, values, policies and errors.
//
// It is the leaf of the dependency graph: it imports nothing of this module,
// and no clock, socket, file or goroutine. Everything here is a plain value.
package base
