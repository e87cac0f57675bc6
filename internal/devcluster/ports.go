package devcluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
)

// checkPorts listens on every port for a moment, so that one in use is named
// before anything starts.
func checkPorts(ctx context.Context, n env.Net, l Layout) error {
	for _, f := range l.families() {
		for port := f.first; port < f.first+l.Nodes; port++ {
			listener, err := n.Listen(ctx, local(port))
			if err == nil {
				err = listener.Close()
			}
			if err == nil {
				continue
			}
			if !errors.Is(err, syscall.EADDRINUSE) {
				return base.Errorf(base.KindInvalid, "port %d cannot be used: %w", port, err)
			}
			return base.Errorf(base.KindInvalid, "port %d is in use%s", port, by(holder(port))).
				WithHint("Stop that process, or choose other ports: --%s takes the first of %d.", f.flag, l.Nodes)
		}
	}
	return nil
}

func by(holder string) string {
	if holder == "" {
		return ""
	}
	return " by " + holder
}

// holder names the process that listens on a port, "" when the system does not
// tell: /proc shows only the files of processes of the same user.
func holder(port int) string {
	inode := ""
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		if inode = listeningInode(data, port); inode != "" {
			break
		}
	}
	if inode == "" {
		return ""
	}
	descriptors, _ := filepath.Glob("/proc/[0-9]*/fd/*") // The pattern is valid.
	for _, name := range descriptors {
		if target, err := os.Readlink(name); err != nil || target != "socket:["+inode+"]" {
			continue
		}
		pid := strings.Split(name, "/")[2]
		command, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			return "process " + pid
		}
		return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(command)))
	}
	return ""
}

// listeningInode finds the socket that listens on a port in the text of
// /proc/net/tcp: columns are number, local address, remote address, state
// (0A: listening), and the inode is the tenth.
func listeningInode(table []byte, port int) string {
	for lines := bufio.NewScanner(bytes.NewReader(table)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[3] != "0A" {
			continue
		}
		_, text, _ := strings.Cut(f[1], ":")
		if b, err := hex.DecodeString(text); err != nil || len(b) != 2 || int(b[0])<<8|int(b[1]) != port {
			continue
		}
		if _, err := strconv.ParseUint(f[9], 10, 64); err == nil {
			return f[9]
		}
	}
	return ""
}
