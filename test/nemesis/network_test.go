package nemesis

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// network is a bridge in a namespace, and a namespace for each node on it.
// Inside its own, each node has the same ports on the loopback, where its
// clients are, and 10.77.0.N towards the others.
type network struct {
	hub   string
	nodes []string // namespaces
}

const namespacePrefix = "skein-nemesis-"

func tool(arguments ...string) error {
	if out, err := exec.Command(arguments[0], arguments[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(arguments, " "), err, out)
	}
	return nil
}

// mayMakeNetworks skips where namespaces and packet filters are out of reach.
func mayMakeNetworks(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	for _, program := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed (Debian: apt-get install iproute2 nftables)", program)
		}
	}
}

// sweep removes namespaces of test processes that were killed.
func sweep() {
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(out)) {
		name := strings.Fields(line)[0]
		rest, ours := strings.CutPrefix(name, namespacePrefix)
		owner, _, _ := strings.Cut(rest, "-")
		if pid, err := strconv.Atoi(owner); ours && err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			_ = tool("ip", "netns", "delete", name) // Somebody else may sweep, too.
		}
	}
}

func address(node int) string { return fmt.Sprintf("10.77.0.%d", node+1) }

// newNetwork makes a network for some nodes, without any rule.
func newNetwork(t *testing.T, size int) *network {
	t.Helper()
	sweep()
	prefix := fmt.Sprintf("%s%d-", namespacePrefix, os.Getpid())
	n := &network{hub: prefix + "hub"}
	must := func(arguments ...string) {
		t.Helper()
		if err := tool(arguments...); err != nil {
			t.Fatal(err)
		}
	}
	add := func(name string) {
		t.Helper()
		must("ip", "netns", "add", name)
		t.Cleanup(func() {
			if err := tool("ip", "netns", "delete", name); err != nil {
				t.Error(err)
			}
		})
		must("ip", "-n", name, "link", "set", "lo", "up")
	}
	add(n.hub)
	must("ip", "-n", n.hub, "link", "add", "bridge", "type", "bridge")
	must("ip", "-n", n.hub, "link", "set", "bridge", "up")
	for i := range size {
		name := fmt.Sprintf("%sn%d", prefix, i+1)
		port := fmt.Sprintf("n%d", i+1)
		add(name)
		must("ip", "-n", n.hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
		must("ip", "-n", n.hub, "link", "set", port, "master", "bridge", "up")
		must("ip", "-n", name, "addr", "add", address(i)+"/24", "dev", "eth0")
		must("ip", "-n", name, "link", "set", "eth0", "up")
		n.nodes = append(n.nodes, name)
		if err := n.rules(i, "table inet cut {\n set from { type ipv4_addr; }\n chain in { type filter hook input priority 0; ip saddr @from drop; }\n}\n"); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// rules loads packet filter rules in a node's namespace.
func (n *network) rules(node int, text string) error {
	cmd := exec.Command("ip", "netns", "exec", n.nodes[node], "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft in %s: %w: %s", n.nodes[node], err, out)
	}
	return nil
}

// cut drops what one node sends to another, from now on.
func (n *network) cut(from, to int) error {
	return n.rules(to, "add element inet cut from { "+address(from)+" }\n")
}

// heal ends all cuts.
func (n *network) heal() error {
	for i := range n.nodes {
		if err := n.rules(i, "flush set inet cut from\n"); err != nil {
			return err
		}
	}
	return nil
}

// enter moves the calling thread, which must be locked and never be used for
// anything else, into a node's namespace.
func (n *network) enter(node int) error {
	f, err := os.Open("/run/netns/" + n.nodes[node])
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", n.nodes[node], err)
	}
	return nil
}

// within runs f in a node's namespace. A socket that is made there stays there.
func within[T any](n *network, node int, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // Never unlocked: the thread ends with this goroutine.
		var r result
		if r.err = n.enter(node); r.err == nil {
			r.value, r.err = f()
		}
		done <- r
	}()
	r := <-done
	return r.value, r.err
}

// dial connects to a port on a node's loopback, as its clients do.
func (n *network) dial(ctx context.Context, node int, port string) (net.Conn, error) {
	return within(n, node, func() (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+port)
	})
}
