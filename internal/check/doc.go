// Package check judges what the clients of a database saw.
//
// A test or a simulator records a History while a run goes on: every
// operation of every client with the instants of its start and end and what
// came of it, the faults that were made, who claimed to lead, and what each
// replica held in the end. The checkers are pure functions of a history; each
// returns findings, and a finding names the operations that contradict a
// promise, so that a person can follow it:
//
//   - Writes: no acknowledged write is lost, none is applied twice, none that
//     failed is seen, none that nobody wrote.
//   - Epochs: one writer an epoch.
//   - Copies: replicas at equal positions have equal content.
//   - Linear: leader reads and writes of one register are linearizable.
//   - Cycles: transactions on lists are serializable; what is not is classified
//     (G0, G1a, G1b, G1c, G-single, G2, lost update).
//   - Sessions: read-your-writes, monotonic reads, consistent prefix, and how
//     old bounded reads may be. Anomalies counts what level any has let through.
//   - Across: no answer in one database is seen without its question in another.
//   - Losses: what an asynchronous database lost is exactly what it reported.
//   - Deliveries: subscribers are told every change that was kept, in order, and
//     nothing else.
//
// All runs those that a history of one database calls for; Across wants that of
// several (Together). A history is written and read as
// text, one line an operation (Parse, History.String).
//
// The package has no clock, no goroutine of its own and no state; the order of
// its findings depends on the history alone. Porcupine, which Linear asks, does
// use goroutines and a time limit: what it cannot decide is reported as
// undecided, never as good. Recording is for one goroutine; who has several
// guards the history.
package check
