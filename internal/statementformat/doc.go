// Package statementformat is the format of the statements of a transaction: SQL
// with its parameters and what it took from outside, to be executed again, or the
// rows that it has changed when that can't be done equally everywhere.
//
// It owns the body of an entry of kind statement; docs/format/statement.md
// describes the bytes. A body has one encoding only. Decoding never panics, and
// allocates no more than the body's own length allows.
//
// It is a pure core: it imports base and rowformat only.
package statementformat
