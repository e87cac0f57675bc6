// Package sim runs whole clusters of the real code in virtual time, from one
// seed: nodes are built by package node, on a network in memory, on disks that
// crash and with clocks that drift. Clients work on a database while faults
// come and go; then everything is healed, and the run must end with replicas
// that are equal and hold what was acknowledged. Package check judges what the
// clients saw.
//
// It owns everything outside of the nodes: time, chance, disks, network,
// clients and faults. Invariants: every draw comes from the seed; every timer
// of a node fires at an instant of its own, so that one thing happens after
// another and a seed tells the same story each time (docs/testing.md says what
// that rests on); a fault never breaks what the promises assume, such as a disk
// wiped while it holds the last copy.
//
// Run must be called from a test's goroutine: virtual time is testing/synctest.
package sim
