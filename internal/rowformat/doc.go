// Package rowformat is the packed form of the row changes of one transaction:
// the body of a log entry of the row format. docs/format/row.md describes it.
//
// It owns the bytes and nothing else: Buffer collects records and builds
// bodies, Reader walks over a body without copying values out of it. Invariants:
// a value keeps its storage class and its bits; records keep the order in which
// the engine made the changes; a body that is not exactly well-formed is
// refused with an error and never guessed at, and no length in it is trusted
// before it was compared with the bytes that are there.
//
// It is pure: it imports base only, and must not import sqlite, a clock, a file
// or a socket. Integrity (the checksum) is that of the frame a body travels in.
package rowformat
