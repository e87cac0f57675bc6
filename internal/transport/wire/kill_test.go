package wire

import (
	"context"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/transport"
	"github.com/skeindb/skein/internal/transport/transporttest"
)

const victimVariable = "SKEIN_TEST_VICTIM"

// beVictim is what the test binary does when the variable is set: it is node 1
// at an address, until it is killed or its standard input ends.
func beVictim(address string) {
	node, err := New(testEnv(), Options{Self: transporttest.ID(1), ClusterID: testCluster, ListenAddress: address, Insecure: true})
	if err != nil {
		panic(err)
	}
	if err := node.Start(context.Background()); err != nil {
		panic(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// TestKilledProcessIsRefusedAtOnce kills a process and expects its peer to
// know within milliseconds, long before any timeout.
func TestKilledProcessIsRefusedAtOnce(t *testing.T) {
	for range 5 {
		took := timeKill(t)
		t.Logf("noticed after %s", took)
		if took > 5*time.Second { // Milliseconds, but for a busy machine.
			t.Errorf("a killed process was noticed after %s", took)
		}
	}
}

func timeKill(t *testing.T) time.Duration {
	address := freeAddress(t)
	reach := make(chan transport.Reach, 64)
	node, err := New(testEnv(), Options{Self: transporttest.ID(0), ClusterID: testCluster, ListenAddress: "127.0.0.1:0", Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	node.OnReach(func(_ base.NodeID, r transport.Reach) { reach <- r })
	if err := node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	victim, input := startVictim(t, address)
	defer input.Close()
	node.SetPeer(transporttest.ID(1), address)
	await(t, reach, transport.Reached)
	killed := time.Now()
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, reach, transport.Refused)
	took := time.Since(killed)
	_ = victim.Wait() // It was killed.
	return took
}

func startVictim(t *testing.T, address string) (*exec.Cmd, io.Closer) {
	victim := exec.Command(os.Args[0])
	victim.Env = append(os.Environ(), victimVariable+"="+address)
	input, err := victim.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	return victim, input
}

func await(t *testing.T, reach <-chan transport.Reach, want transport.Reach) {
	t.Helper()
	for {
		select {
		case r := <-reach:
			if r == want {
				return
			}
		case <-time.After(time.Minute):
			t.Fatalf("the peer was never %s", want)
		}
	}
}
