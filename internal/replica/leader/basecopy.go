package leader

import (
	"context"
	"fmt"

	"github.com/skeindb/skein/internal/base"
)

// wantBase begins to fetch the leader's file. Until it is here the stream goes
// on as far as leases are concerned; what the leader ships is not taken in, and
// so not acknowledged. The old file and log are evidence in elections as before.
func (f *following) wantBase() {
	if f.rebasing.CompareAndSwap(false, true) {
		f.replica.log.Info("the leader has begun to ship pages; fetching its file, that they fit to", "log", f.replica.changes.End())
		close(f.baseWanted)
	}
}

// fetchBase fetches the leader's file when that is wanted, and then ends the
// stream, so that it can take the place of this replica's.
func (f *following) fetchBase(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-f.baseWanted:
	}
	m, err := f.replica.fetchSnapshot(ctx, f.leader)
	if err != nil {
		return fmt.Errorf("fetch the leader's file: %w", err)
	}
	return &fetchedBase{m}
}

// fetchedBase ends a stream: the file that was fetched is to be installed.
type fetchedBase struct{ manifest *manifest }

func (*fetchedBase) Error() string { return "the leader's file was fetched" }

// installBase puts the fetched file and its position in place of this
// replica's. From the mark on this replica is copied whatever happens.
func (r *Replica) installBase(ctx context.Context, m *manifest) error {
	if end := r.changes.End().Seq; m.Position.Seq <= end {
		return base.Errorf(base.KindUnavailable, "the file that was fetched is at %v, and the log at %d already", m.Position, end)
	}
	if err := r.willCopy("the leader's file is put in place"); err != nil {
		return err
	}
	return r.install(ctx, m)
}
