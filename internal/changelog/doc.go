// Package changelog is the durability authority of one replica of one
// database: an append-only sequence of entries in segment files.
//
// It owns the files of its directory, which entries are in the log, and which
// of them are known to be on disk. It does not own what an entry's body means,
// when to sync, or how much to retain; Retain is a pure function that advises.
//
// Invariants:
//   - Entries lie in the log in order, without a gap, epochs never going back.
//   - Every segment but the last is wholly on disk before the next one exists,
//     and a segment's header is on disk before the segment has its name.
//   - What a Sync has returned survives every crash. What was cut by
//     TruncateAfter never comes back: a cut segment is written anew under a
//     new salt, and a batch under another segment's salt is not a batch.
//   - A batch that can't be read is torn, and cut, only when it was never
//     known to be on disk; otherwise it is corruption, and the log refuses.
//   - After a failed sync nothing works any more; Open alone decides again.
//
// Goroutines: one writer calls Append, TruncateAfter and Reset; one flusher
// calls Sync; everything else may be called by anyone. Open starts one
// goroutine that makes spare segments and removes dropped ones; Close waits
// for it.
//
// It reaches disk and randomness through env only and imports no package of
// this module but base, entry and env. docs/format/changelog.md describes the
// bytes.
package changelog
