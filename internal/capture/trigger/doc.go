// Package trigger is the trigger log format: its Recorder captures the row
// changes of a leader's writer connection as package row does, and takes along
// what triggers have sent by skein_emit.
//
// It owns the table _skein_changes, where that is until the transaction ends,
// and the triggers that say what is sent of a table (package choice): they are
// made for every table, and are the user's to change from then on.
//
// Invariants:
//   - A body holds all row changes, whatever triggers send: a replica that may
//     lead must have everything.
//   - What was sent is in the order of the row changes that it is about, not in
//     that in which the engine happened to fire triggers. Applied by key, in
//     this order, it makes a copy of what is chosen.
//   - A row that REPLACE removes fires no trigger; it is taken back as its
//     delete trigger would have.
//
// It must not import the log, transport or replication packages.
package trigger
