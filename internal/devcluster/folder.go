package devcluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/pki"
)

// lock takes a folder for this run; the system gives it back when the process
// ends, however it ends.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, base.Errorf(base.KindInvalid, "`skein dev` already runs on this folder%s", lockedBy(f)).
				WithHint("Use the cluster that runs, stop it, or give another --dir and other ports.")
		}
		return nil, fmt.Errorf("lock folder: %w", err)
	}
	if err := errors.Join(f.Truncate(0), second(f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0))); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock folder: %w", err)
	}
	return func() { f.Close() }, nil
}

func second(_ int, err error) error { return err }

// lockedBy reads the number of the process that holds the lock.
func lockedBy(f *os.File) string {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0) // Without the number the message is only shorter.
	if pid := strings.TrimSpace(string(b[:n])); pid != "" {
		return " (pid " + pid + ")"
	}
	return ""
}

// authorityDir holds the development authority, whose key signs only nodes of
// this folder.
func authorityDir(dir string) string { return filepath.Join(dir, "ca") }

// certify makes the authority and every node's certificate where they are
// missing, and renews those that are due.
func certify(e *env.Env, dir string, nodes []node) error {
	ca, err := pki.LoadCA(e.FS, authorityDir(dir))
	if errors.Is(err, fs.ErrNotExist) {
		ca, err = newAuthority(e, authorityDir(dir))
	}
	if err != nil {
		return fmt.Errorf("certificate authority: %w", err)
	}
	for _, n := range nodes {
		if err := certifyNode(e, ca, n); err != nil {
			return fmt.Errorf("certificate of %s: %w", n.name, err)
		}
	}
	return nil
}

func newAuthority(e *env.Env, dir string) (*pki.CA, error) {
	if err := e.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	ca, err := pki.NewCA(e.Rand, e.Clock.Now(), e.Rand.Uint64())
	if err != nil {
		return nil, err
	}
	return ca, ca.Save(e.FS, dir)
}

func certifyNode(e *env.Env, ca *pki.CA, n node) error {
	id := base.NewNodeID(e.Rand)
	have, err := pki.LoadFiles(e.FS, n.certs())
	switch {
	case err == nil && e.Clock.Now().Before(have.RenewAt()):
		return nil
	case err == nil:
		id = have.Node()
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	issued, err := ca.IssueNode(e.Rand, e.Clock.Now(), pki.NodeOptions{Node: id, Names: []string{"localhost", "127.0.0.1"}})
	if err != nil {
		return err
	}
	if err := e.FS.MkdirAll(n.certs(), 0o700); err != nil {
		return err
	}
	return issued.Save(e.FS, n.certs())
}

// configure writes every node's configuration. A node that belongs to no cluster
// joins those that do; in a new cluster the others join the first.
func configure(f env.FS, nodes []node) error {
	var members []string
	joined := map[string]bool{}
	for _, n := range nodes {
		var err error
		if joined[n.name], err = belongs(f, n.data()); err != nil {
			return err
		}
		if joined[n.name] {
			members = append(members, n.peer)
		}
	}
	if len(members) == 0 {
		members = []string{nodes[0].peer}
		joined[nodes[0].name] = true
	}
	for _, n := range nodes {
		var join []string
		if !joined[n.name] {
			join = members
		}
		if err := env.WriteFile(f, n.dir, filepath.Base(n.config()), []byte(configuration(n, join))); err != nil {
			return err
		}
	}
	return nil
}

// identityFile is where a node writes down which cluster it belongs to.
const identityFile = "node.json"

// belongs says whether a data folder is that of a member of a cluster. A folder
// that merely has files is not: a start that was interrupted leaves some, and a
// node that is then told to join nobody would found a cluster of its own.
func belongs(f env.FS, data string) (bool, error) {
	text, err := f.ReadFile(filepath.Join(data, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var identity struct {
		Cluster string `json:"cluster"`
	}
	if err := json.Unmarshal(text, &identity); err != nil {
		return true, nil // The node itself says what is wrong with its folder.
	}
	return strings.Trim(identity.Cluster, "0") != "", nil
}
