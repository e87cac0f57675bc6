package leader

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/skeindb/skein/internal/base"
)

// A replica that waits for another assignment ends with what ends it: damage to
// its file or a failed sync. Anything else begins another part.
func TestRestEndsAsTheReplicaDoes(t *testing.T) {
	sync := fmt.Errorf("%w: EIO", errFlush)
	damage := base.Errorf(base.KindCorrupt, "a page fails its checksum")
	for _, c := range []struct{ cause, want error }{
		{damage, damage}, {sync, sync}, {errPartOver, errPartOver}, {nil, errPartOver},
	} {
		ctx, stop := context.WithCancelCause(t.Context())
		stop(c.cause)
		if err := new(Replica).rest(ctx, 3); !errors.Is(err, c.want) {
			t.Errorf("stopped by %v: %v, want %v", c.cause, err, c.want)
		}
	}
}
