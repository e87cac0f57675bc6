// Package skein is SQLite, replicated, as a library: a program that opens a
// Node is a node of a cluster, with its databases in files of its own.
//
//	node, err := skein.Open(ctx, skein.Options{Dir: "data"})
//	db, err := node.EnsureDatabase(ctx, "main", skein.Policy{})
//
// That is a whole single-node cluster. Other nodes, embedded ones or processes
// of the skein program, join it by the address it listens on; every node takes
// reads and writes, and sends them to where they must run.
//
// # What a statement promises
//
// A write has been committed as durably as the database's policy, or
// WithDurability, asks when Exec returns; Result says what was asked and what
// was reached. Errors are *Error values; their Outcome says what an error means
// for the data, and only NotDone may be repeated without looking.
//
// A DB may be used by many goroutines at once. It runs each statement in a
// session of its own, and what any statement of the DB has seen or written is
// seen by every later one, on whichever node: read-your-writes and monotonic
// reads hold for the DB as a whole. A Session gives the same to one goroutine
// alone, without waiting for what others have seen. WithRead asks for more or
// for less. Token and SetToken carry what was seen to other nodes and other
// processes.
//
// # What it owns
//
// The package adds no behaviour: nodes are put together by internal/node and
// statements are run by sessions of its gateway, as for every other front end.
// It must not import a network front end.
package skein
