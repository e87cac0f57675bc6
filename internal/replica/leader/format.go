package leader

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/entry"
	"github.com/skeindb/skein/internal/pageformat"
)

// adoptFormat takes over the log format that the policy names, between two
// transactions: what came before it in the log stays as it is, and an entry says
// from where on the other counts.
func (w *writer) adoptFormat() error {
	name := w.replica.assignment().Policy.LogFormat
	if name == w.format || name == "" {
		return w.renew()
	}
	if !slices.Contains(base.LogFormats, name) {
		return base.Errorf(base.KindUnsupported, "log format %q is not available in the version of this node", name).
			WithHint("upgrade the node, or alter the database's log format")
	}
	if err := w.settle(); err != nil {
		return err
	}
	change := entry.FormatChange{Name: name}
	if name == base.FormatWAL {
		header, err := w.conn.Header()
		if err != nil {
			return fmt.Errorf("change the log format to %s: %w", name, err)
		}
		layout, err := pageformat.LayoutOf(header)
		if err != nil {
			return fmt.Errorf("change the log format to %s: %w", name, err)
		}
		change.Details = pageformat.AppendLayout(nil, layout)
	}
	if err := w.writeFormat(change); err != nil {
		return fmt.Errorf("change the log format to %s: %w", name, err)
	}
	w.replica.log.Info("the log's format is another", "from", w.format, "to", name, "position", w.end)
	w.format = name
	if err := w.replaceConn(); err != nil {
		return err
	}
	if name == base.FormatWAL {
		return w.beginPages()
	}
	return w.setUpFormat()
}

// renew opens another connection where the format asks for one.
func (w *writer) renew() error {
	r, ok := w.recorder.(interface{ stale() bool })
	if w.failed != nil || !ok || !r.stale() {
		return nil
	}
	if err := w.settle(); err != nil {
		return err
	}
	return w.replaceConn()
}

// replaceConn opens the write connection anew, with a recorder of the log's
// format, when nothing is pending.
func (w *writer) replaceConn() error {
	w.recorder.Close()
	if err := errors.Join(w.conn.Close(), w.openConn(context.Background())); err != nil {
		w.failed = fmt.Errorf("open the write connection for log format %s: %w", w.format, err)
	}
	return w.failed
}

// writeFormat writes the entry that says that another format follows.
func (w *writer) writeFormat(c entry.FormatChange) error {
	if err := w.begin(); err != nil {
		return err
	}
	first := w.end + 1
	e := entry.Entry{
		Epoch: w.epoch, First: first, Count: 1, Time: w.replica.env.Clock.Now().UnixNano(),
		Kind: entry.Format, Body: entry.AppendFormatChange(nil, c),
	}
	w.buffer = entry.Append(w.buffer[:0], &e)
	w.pending.refused = true // The connection is about to be closed.
	if err := w.commit(first); err != nil {
		w.rollback()
		return err
	}
	w.publish(nil)
	return nil
}

// openConn opens the write connection anew, in the format of the log.
func (w *writer) openConn(ctx context.Context) error {
	conn, recorder, err := w.replica.openWriter(ctx, w.format)
	if err != nil {
		return err
	}
	w.conn, w.recorder, w.schemas = conn, recorder, 0
	w.aside.forget()
	w.basis.forget()
	w.batch = recorder.Mark()
	return nil
}

// applyFormat is what a follower does where the format changes.
func applyFormat(e *entry.Entry) error {
	c, err := entry.DecodeFormatChange(e.Body)
	if err != nil {
		return err
	}
	switch c.Name {
	case base.FormatWAL:
		layout, err := pageformat.DecodeLayout(c.Details)
		if err != nil {
			return fmt.Errorf("entry %v: %w", e.Position(), err)
		}
		return layout.Check()
	case base.FormatRow, base.FormatStatement, base.FormatTrigger:
		return nil // What follows says by itself what it is.
	}
	return base.Errorf(base.KindUnsupported, "entry %v begins log format %q, which this version does not know", e.Position(), c.Name).
		WithHint("upgrade this node")
}
