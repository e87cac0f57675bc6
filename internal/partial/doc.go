// Package partial keeps a partial replica: an SQLite file that holds the chosen
// rows and columns of a database, made from its stream of chosen changes.
//
// It owns the file. Invariants: the file shows whole transactions only, each
// with the offset behind it in the same transaction of the file, so that
// whatever breaks off goes on without a gap and without doing anything twice; a
// new copy replaces the old one in one transaction.
//
// A partial replica is no member of the cluster: it counts for no durability and
// can't lead. It must not import replication packages.
package partial
