// Package netns makes networks for tests: namespaces that a bridge joins, whose
// links can be cut in each direction. It needs root, ip and nft.
//
// It knows nothing of Skein. Whoever makes a network closes it; one whose
// process was killed is swept away when the next one is made.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Network is a bridge in a namespace, and a namespace for each node on it.
// Inside its own, each node has the loopback, where its clients are, and
// 10.77.0.N towards the others.
type Network struct {
	hub   string
	nodes []string // namespaces
}

const namespacePrefix = "skein-test-"

// rules drop what comes from an address in the set.
const rules = "table inet cut {\n set from { type ipv4_addr; }\n chain in { type filter hook input priority 0; ip saddr @from drop; }\n}\n"

// Available returns an error that says what is missing where namespaces and
// packet filters are out of reach.
func Available() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	for _, program := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is not installed (Debian: apt-get install iproute2 nftables)", program)
		}
	}
	return nil
}

// New makes a network for some nodes, with nothing cut.
func New(size int) (*Network, error) {
	sweep()
	prefix := fmt.Sprintf("%s%d-", namespacePrefix, os.Getpid())
	n := &Network{hub: prefix + "hub"}
	for i := range size {
		n.nodes = append(n.nodes, fmt.Sprintf("%sn%d", prefix, i+1))
	}
	if err := n.make(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Network) make() error {
	err := tools(
		"ip netns add "+n.hub,
		"ip -n "+n.hub+" link set lo up",
		"ip -n "+n.hub+" link add bridge type bridge",
		"ip -n "+n.hub+" link set bridge up",
	)
	for i, name := range n.nodes {
		if err != nil {
			break
		}
		port := fmt.Sprintf("n%d", i+1)
		err = tools(
			"ip netns add "+name,
			"ip -n "+name+" link set lo up",
			"ip -n "+n.hub+" link add "+port+" type veth peer name eth0 netns "+name,
			"ip -n "+n.hub+" link set "+port+" master bridge up",
			"ip -n "+name+" addr add "+Address(i)+"/24 dev eth0",
			"ip -n "+name+" link set eth0 up",
		)
		if err == nil {
			err = n.Filter(i, rules)
		}
	}
	return err
}

// Close removes the network. Sockets in it live on until they are closed.
func (n *Network) Close() error {
	var failures []error
	for _, name := range append([]string{n.hub}, n.nodes...) {
		if _, err := os.Stat("/run/netns/" + name); err == nil {
			failures = append(failures, tools("ip netns delete "+name))
		}
	}
	return errors.Join(failures...)
}

// sweep removes namespaces of processes that were killed.
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
			_ = tools("ip netns delete " + name) // Somebody else may sweep, too.
		}
	}
}

// tools runs commands until one fails.
func tools(lines ...string) error {
	for _, line := range lines {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}

// Size is how many nodes there are.
func (n *Network) Size() int { return len(n.nodes) }

// Namespace is the name of a node's, for ip netns exec.
func (n *Network) Namespace(node int) string { return n.nodes[node] }

// Filter loads packet filter rules in a node's namespace.
func (n *Network) Filter(node int, text string) error {
	cmd := exec.Command("ip", "netns", "exec", n.nodes[node], "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft in %s: %w: %s", n.nodes[node], err, out)
	}
	return nil
}

// Address is where the other nodes reach a node, counted from 0.
func Address(node int) string { return fmt.Sprintf("10.77.0.%d", node+1) }

// Cut drops what a node is sent by some others, from now on.
func (n *Network) Cut(to int, from ...int) error {
	var addresses []string
	for _, f := range from {
		addresses = append(addresses, Address(f))
	}
	return n.Filter(to, "add element inet cut from { "+strings.Join(addresses, ", ")+" }\n")
}

// Isolate cuts a node off from all others: what it sends is lost at once, what
// the others send it within the time that a command takes.
func (n *Network) Isolate(node int) error {
	var others []int
	for i := range n.nodes {
		if i != node {
			others = append(others, i)
			if err := n.Cut(i, node); err != nil {
				return err
			}
		}
	}
	return n.Cut(node, others...)
}

// Heal ends all cuts.
func (n *Network) Heal() error {
	for i := range n.nodes {
		if err := n.Filter(i, "flush set inet cut from\n"); err != nil {
			return err
		}
	}
	return nil
}

// Enter moves the calling thread, which must be locked and never be used for
// anything else, into a node's namespace.
func (n *Network) Enter(node int) error {
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

// Within runs f in a node's namespace. A socket that is made there stays there.
func Within[T any](n *Network, node int, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // Never unlocked: the thread ends with this goroutine.
		var r result
		if r.err = n.Enter(node); r.err == nil {
			r.value, r.err = f()
		}
		done <- r
	}()
	r := <-done
	return r.value, r.err
}

// Dial connects to an address that a node's namespace has, as its clients do.
func (n *Network) Dial(ctx context.Context, node int, address string) (net.Conn, error) {
	return Within(n, node, func() (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	})
}
