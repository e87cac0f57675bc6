// Package nemesis lets real nodes fail in every way that one machine allows,
// under clients whose histories are judged afterwards.
//
// Three processes of the skein binary, each in a network namespace and on a
// small disk of its own, are killed, frozen, partitioned, filled up, restarted,
// slowed down and given wrong clocks. Clients write and read through pgx, some at
// one node, some roaming with their token, some with all nodes in their
// connection string, and record what they were told. When all is healed the
// cluster must come right within a bounded time, and internal/check must find
// nothing. What it finds is kept as a folder: the nodes' logs, the history, the
// report and a timeline for a browser.
//
// SKEIN_E2E=1 runs it; it needs root, ip and nft. Every run prints its seed:
// the faults are drawn from it, though not their effects.
//
// Invariants: namespaces, disks and processes belong to one run, carry the test's
// pid in their names and are gone after it; a process is signalled by its pid
// alone; the clients' clock is the test's and is never set wrong.
package nemesis
