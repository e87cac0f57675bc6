package control_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/control"
	"github.com/skeindb/skein/internal/control/controltest"
)

// BenchmarkPropose measures decisions in real time, with files and a network
// that takes no time.
func BenchmarkPropose(b *testing.B) {
	for _, n := range []int{1, 3} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			leader := realCluster(b, n)
			var i int
			for b.Loop() {
				i++
				_, err := leader.Propose(context.Background(), catalog.Command{Action: catalog.SetSetting{Setting: "n", Value: fmt.Sprint(i)}})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func realCluster(b *testing.B, n int) *control.Control {
	e := quietEnv()
	net := controltest.New(e.Clock, 1)
	var all []*control.Control
	for id := base.NodeID(1); id <= base.NodeID(n); id++ {
		c, err := control.Open(e, control.Options{Self: id, Dir: b.TempDir(), Messenger: net.Messenger(id)})
		if err != nil {
			b.Fatal(err)
		}
		net.Attach(id, c)
		go func() { _ = c.Run(context.Background()) }()
		b.Cleanup(func() { net.Detach(id); _ = c.Close() })
		if all = append(all, c); id == 1 {
			err = c.Bootstrap(context.Background(), 7, describe(1))
		} else {
			err = c.Join(context.Background(), 7, c.Via(1), describe(id))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	for len(all[0].State().Voters()) < n || !all[0].IsLeader() {
		time.Sleep(time.Millisecond)
	}
	return all[0]
}
