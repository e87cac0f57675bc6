// Package entry is the format of one log entry: one committed transaction,
// framed so that the same bytes lie in the log file, travel between nodes and
// are checked at every stop.
//
// It owns the frame and nothing in the body, which belongs to the packages
// that capture and apply changes. docs/format/entry.md describes the bytes.
//
// Invariants: an entry has one encoding only, so that equal entries are equal
// bytes; a frame that decodes has passed its checksum; decoding never copies
// or allocates, and never panics whatever the bytes are.
//
// It is a pure core: it must not import a clock, a file, a socket or any
// package of this module but base.
package entry
