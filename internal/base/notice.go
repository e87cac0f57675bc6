package base

import "context"

// Notices are what there is to add to work that is done, such as that a node has
// not heard of it yet. They are left and read by one goroutine.
type Notices struct{ list []string }

type noticesKey struct{}

// WithNotices returns a context whose work leaves its notices.
func WithNotices(ctx context.Context) (context.Context, *Notices) {
	n := &Notices{}
	return context.WithValue(ctx, noticesKey{}, n), n
}

// Notice leaves a notice with whoever wants those of ctx.
func Notice(ctx context.Context, text string) {
	if n, ok := ctx.Value(noticesKey{}).(*Notices); ok {
		n.list = append(n.list, text)
	}
}

// List returns the notices so far.
func (n *Notices) List() []string { return n.list }
