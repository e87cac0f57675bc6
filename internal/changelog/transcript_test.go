package changelog_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changelog"
	"github.com/skeindb/skein/internal/env/crashfs"
)

// stage is what a transcript plays on.
type stage struct {
	d     *crashfs.Disk
	l     *changelog.Log
	opens uint64
}

// TestTranscripts plays the stories in testdata/stories.
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/stories", func(t *testing.T, path string) {
		s := &stage{d: newDisk(t)}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			text, err := s.play(t, d)
			if err != nil {
				text += "\nerror: " + err.Error()
				if kind := base.KindOf(err); kind != base.KindInternal {
					text += fmt.Sprintf(" (%s)", kind)
				}
			}
			if text == "" {
				text = "ok"
			}
			return strings.TrimSpace(text) + "\n"
		})
		if s.l != nil {
			_ = s.l.Close()
		}
	})
}

func number(t *testing.T, d *datadriven.TestData, key string) int {
	var n int
	d.MaybeScanArgs(t, key, &n)
	return n
}

func (s *stage) play(t *testing.T, d *datadriven.TestData) (string, error) {
	switch d.Cmd {
	case "open":
		return s.open()
	case "crash":
		s.d.Crash(uint64(number(t, d, "seed")))
		return "", nil
	case "kill":
		s.d = s.d.Clone()
		return "", nil
	case "damage":
		return "", s.d.Damage(s.d.Files()[0], s.l.Bytes()-int64(number(t, d, "back")), 0xff)
	case "room":
		s.d.SetCapacity(s.d.Used() + int64(number(t, d, "bytes")))
		return "", nil
	case "files":
		return strings.Join(s.d.Files(), "\n"), nil
	case "close":
		return "", s.l.Close()
	}
	err := s.call(t, d)
	return s.state(), err
}

func (s *stage) open() (string, error) {
	s.opens++
	l, r, err := changelog.Open(environment(s.d, s.opens), dir, options())
	if err != nil {
		return "", err
	}
	s.l = l
	text := s.state()
	if r.Created {
		text += ", created"
	}
	if r.TornBytes > 0 {
		text += fmt.Sprintf(", %d torn bytes cut at segment %d, offset %d", r.TornBytes, r.TornSegment, r.TornOffset)
	}
	if r.Rewritten {
		text += ", last segment written anew"
	}
	return text, nil
}

func (s *stage) call(t *testing.T, d *datadriven.TestData) error {
	seq := base.Seq(number(t, d, "seq"))
	switch d.Cmd {
	case "append":
		first := s.l.End().Seq + 1
		epoch := base.Epoch(number(t, d, "epoch"))
		frames, last := batchOf(epoch, first, max(1, number(t, d, "entries")), number(t, d, "size"))
		return s.l.Append(frames, first, last, epoch)
	case "sync":
		_, err := s.l.Sync()
		return err
	case "truncate":
		return s.l.TruncateAfter(seq)
	case "trim":
		return s.l.Trim(seq)
	case "reset":
		epoch := base.Epoch(number(t, d, "epoch"))
		return s.l.Reset(base.Position{Epoch: epoch, Seq: seq}, []changelog.EpochStart{{Epoch: epoch, First: 1}})
	case "verify":
		return s.l.Verify(context.Background())
	case "read":
		_, _, _, err := s.l.ReadFrom(seq, 1000, nil)
		return err
	}
	t.Fatalf("unknown command %s", d.Cmd)
	return nil
}

func (s *stage) state() string {
	var epochs []string
	for _, e := range s.l.EpochStarts() {
		epochs = append(epochs, fmt.Sprintf("%d from %d", e.Epoch, e.First))
	}
	return fmt.Sprintf("holds %d to %v, flushed %d, %d segments, epochs: %s",
		s.l.Start(), s.l.End(), s.l.Flushed(), len(s.l.Segments()), strings.Join(epochs, ", "))
}
