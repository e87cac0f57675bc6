package sqlite

import (
	"context"
	"errors"
)

// PageChecksum is for tests that make pages by hand.
var PageChecksum = pageChecksum

// Generation counts the schema changes that the writer has committed since the
// database was opened. Who caches what it knows of the schema compares it.
func (d *Database) Generation() int64 { return d.generation.Load() }

// SnapshotTo copies what is committed now to a new file, as CopyTo does.
func (d *Database) SnapshotTo(ctx context.Context, dest string, progress func(done, total int64)) error {
	s, err := d.Snapshot(ctx)
	if err != nil {
		return err
	}
	return errors.Join(s.CopyTo(ctx, dest, progress), s.Close())
}
