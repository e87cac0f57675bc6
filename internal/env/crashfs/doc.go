// Package crashfs is a disk in memory that can crash, tear, fill up, flip bits
// and fail, for tests and for the simulator.
//
// It owns a tree of files of which it keeps two images: what a program sees,
// and what is on the platter. Writes reach the second at a sync of the file,
// creations, renames and removals at a sync of the directory. A crash keeps of
// everything unsynced what a seed chooses: nothing, all, a prefix with its last
// write torn, or for each sector on its own how much of what was written to it.
//
// Invariants: what was synced survives every crash; a sector holds after a
// crash the outcome of a prefix of the writes to it; the same calls and seeds
// give the same disk.
//
// Rules it is stricter about than most file systems: a new file is gone
// without a sync of its directory even when its data were synced, and
// directory changes may survive in any combination. A rename within one
// directory is atomic.
//
// It imports no package of this module but env. It is safe for concurrent use;
// a fault function is called without the disk's lock and may block.
package crashfs
