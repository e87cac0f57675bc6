package wire

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
	"github.com/skeindb/skein/internal/transport/transporttest"
)

// benchCluster is n nodes with TLS on loopback, connected.
func benchCluster(b *testing.B, n int, setup func(int, transport.Transport)) *cluster {
	c := newCluster(b, n, true, func(i int, tr transport.Transport) {
		tr.HandleCall("echo", func(_ context.Context, _ base.NodeID, request []byte) ([]byte, error) { return request, nil })
		tr.HandleStream("echo", serveEcho)
		tr.HandleStream("ack", serveAcks)
		if setup != nil {
			setup(i, tr)
		}
	})
	b.Cleanup(c.close)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := c.nodes[0].Call(ctx, transporttest.ID(1), "echo", nil); err != nil {
		b.Fatal(err)
	}
	return c
}

func serveEcho(_ context.Context, _ base.NodeID, _ []byte, s transport.Stream) error {
	for {
		msg, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.Send(msg)
		}
		if err != nil {
			return err
		}
	}
}

func serveAcks(_ context.Context, _ base.NodeID, _ []byte, s transport.Stream) error {
	ack := make([]byte, 8)
	for {
		_, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.Send(ack)
		}
		if err != nil {
			return err
		}
	}
}

// cpu returns the processor time that the process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func reportCPU(b *testing.B, began time.Duration) {
	b.ReportMetric(float64((cpu()-began).Microseconds())/float64(b.N), "cpu-us/op")
}

func BenchmarkCall(b *testing.B) {
	c := benchCluster(b, 2, nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	request := make([]byte, 128)
	b.ReportAllocs()
	defer reportCPU(b, cpu())
	for b.Loop() {
		if _, err := c.nodes[0].Call(ctx, transporttest.ID(1), "echo", request); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStreamPingPong(b *testing.B) {
	c := benchCluster(b, 2, nil)
	s, err := c.nodes[0].OpenStream(b.Context(), transporttest.ID(1), "echo", nil)
	if err != nil {
		b.Fatal(err)
	}
	msg := make([]byte, 128)
	b.ReportAllocs()
	defer reportCPU(b, cpu())
	for b.Loop() {
		err := s.Send(msg)
		if _, rerr := s.Recv(); err != nil || rerr != nil {
			b.Fatal(err, rerr)
		}
	}
}

func BenchmarkStream64KWindow16(b *testing.B) { benchmarkWindow(b, 64<<10, 16) }
func BenchmarkStream4KWindow64(b *testing.B)  { benchmarkWindow(b, 4<<10, 64) }
func BenchmarkStream128Window64(b *testing.B) { benchmarkWindow(b, 128, 64) }

// benchmarkWindow sends messages, at most a window of them unacknowledged.
func benchmarkWindow(b *testing.B, size, window int) {
	c := benchCluster(b, 2, nil)
	s, err := c.nodes[0].OpenStream(b.Context(), transporttest.ID(1), "ack", nil)
	if err != nil {
		b.Fatal(err)
	}
	msg := make([]byte, size)
	room := make(chan struct{}, window)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	defer reportCPU(b, cpu())
	b.ResetTimer()
	done := make(chan error, 1)
	go func() {
		for range b.N {
			if _, err := s.Recv(); err != nil {
				done <- err
				return
			}
			<-room
		}
		done <- nil
	}()
	for range b.N {
		room <- struct{}{}
		if err := s.Send(msg); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkHeartbeats is 50 ms of three nodes that send each other one control
// message in that time; cpu-us/op is what all three cost in it.
func BenchmarkHeartbeats(b *testing.B) {
	c := benchCluster(b, 3, func(_ int, tr transport.Transport) {
		tr.HandleControl(func(base.NodeID, []byte) {})
	})
	beat := time.NewTicker(50 * time.Millisecond)
	defer beat.Stop()
	msg := make([]byte, 64)
	defer reportCPU(b, cpu())
	for b.Loop() {
		<-beat.C
		for i, from := range c.nodes {
			for j := range c.nodes {
				if i != j {
					from.SendControl(transporttest.ID(j), msg)
				}
			}
		}
	}
}

func BenchmarkConnect(b *testing.B) {
	c := benchCluster(b, 2, nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	defer reportCPU(b, cpu())
	for b.Loop() {
		if _, _, err := c.nodes[0].CallAddress(ctx, c.addresses[1], "echo", nil); err != nil {
			b.Fatal(err)
		}
	}
}
