package transporttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
)

// served is a file that counts how often it is open.
type served struct {
	*bytes.Reader
	open *atomic.Int32
}

func (s served) Close() error { s.open.Add(-1); return nil }

func testFiles(t *testing.T, run Run) {
	content := bytes.Repeat([]byte("all work and no play "), 200_000)
	var open atomic.Int32
	setup := func(_ int, tr transport.Transport) {
		serve := func(b []byte) (transport.ReadAtCloser, int64, error) {
			open.Add(1)
			return served{bytes.NewReader(b), &open}, int64(len(b)), nil
		}
		tr.HandleFile("snap/", func(_ context.Context, from base.NodeID, name string) (transport.ReadAtCloser, int64, error) {
			if from != ID(0) || name != "snap/db 1%/file" {
				return nil, 0, base.Errorf(base.KindNotFound, "no %s", name).WithHint("look elsewhere")
			}
			return serve(content)
		})
		tr.HandleFile("snap/empty", func(context.Context, base.NodeID, string) (transport.ReadAtCloser, int64, error) {
			return serve(nil)
		})
	}
	run(t, 2, setup, func(t *testing.T, c Cluster) {
		for _, offset := range []int{0, 1, 100_000, len(content) - 1, len(content)} {
			checkFetch(t, c, "snap/db 1%/file", int64(offset), content)
		}
		checkFetch(t, c, "snap/empty", 0, nil)
		checkFetchFailures(t, c, int64(len(content)))
		checkFetchStops(t, c)
	})
	if n := open.Load(); n != 0 {
		t.Errorf("%d files were left open", n)
	}
}

func checkFetch(t *testing.T, c Cluster, name string, offset int64, content []byte) {
	t.Helper()
	body, size, err := c.Node(0).FetchFile(patiently(t), ID(1), name, offset)
	if err != nil {
		t.Fatalf("fetch %s from %d: %v", name, offset, err)
	}
	got, err := io.ReadAll(body)
	if err != nil || size != int64(len(content)) || !bytes.Equal(got, content[offset:]) {
		t.Errorf("fetch %s from %d: %d bytes of %d, %v", name, offset, len(got), size, err)
	}
	if err := body.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func checkFetchFailures(t *testing.T, c Cluster, size int64) {
	fetch := func(name string, offset int64) error {
		_, _, err := c.Node(0).FetchFile(patiently(t), ID(1), name, offset)
		return err
	}
	e := wantError(t, fetch("snap/none", 0), base.KindNotFound, base.NotDone)
	if e.Hint != "look elsewhere" || !strings.Contains(e.Message, "snap/none") {
		t.Errorf("error came as %+v", e)
	}
	wantError(t, fetch("other", 0), base.KindNotFound, base.NotDone)
	wantError(t, fetch("../etc/passwd", 0), base.KindInvalid, base.NotDone)
	wantError(t, fetch("snap/db 1%/file", -1), base.KindInvalid, base.NotDone)
	wantError(t, fetch("snap/db 1%/file", size+1), base.KindInvalid, base.NotDone)
	_, _, err := c.Node(0).FetchFile(patiently(t), ID(5), "snap/none", 0)
	wantError(t, err, base.KindUnavailable, base.NotDone)
}

// checkFetchStops cancels one transfer in the middle and breaks another.
func checkFetchStops(t *testing.T, c Cluster) {
	ctx, cancel := context.WithCancel(patiently(t))
	body, _, err := c.Node(0).FetchFile(ctx, ID(1), "snap/db 1%/file", 0)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err = io.ReadAll(body); err == nil {
		t.Error("a canceled transfer ended well")
	}
	body.Close()
	body, size, err := c.Node(0).FetchFile(patiently(t), ID(1), "snap/db 1%/file", 0)
	if err != nil {
		t.Fatal(err)
	}
	c.Kill(1)
	// All of it may have been on its way already; a part must not look whole.
	if b, err := io.ReadAll(body); errors.Is(err, io.EOF) || (err == nil && int64(len(b)) != size) {
		t.Errorf("a broken transfer ended with %v after %d of %d bytes", err, len(b), size)
	}
	body.Close()
}
