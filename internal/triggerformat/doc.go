// Package triggerformat is the body of a log entry of the trigger format: the
// row changes of one transaction, and behind them what its triggers have sent.
// docs/format/trigger.md describes the bytes.
//
// It owns the bytes only. The row changes are a body of package rowformat. A
// record that was sent is a reference to one of them, which sends the row as it
// was after that change, or stands for itself. Invariants: a body has one
// encoding only; one that is not exactly well-formed is refused; no number in
// it is trusted before it was compared with the bytes that are there.
//
// It is pure: it imports base and rowformat only.
package triggerformat
