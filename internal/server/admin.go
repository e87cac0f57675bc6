package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/scramsecret"
)

var _ httpapi.Node = (*Server)(nil)

// CreateDatabase implements httpapi.Node.
func (s *Server) CreateDatabase(ctx context.Context, name string, p base.Policy) error {
	return s.node.CreateDatabase(ctx, name, p)
}

// CreateDatabaseFrom implements httpapi.Node.
func (s *Server) CreateDatabaseFrom(ctx context.Context, name string, p base.Policy, r io.Reader, size int64) error {
	return s.node.CreateDatabaseFrom(ctx, name, p, r, size)
}

// AlterDatabase implements httpapi.Node.
func (s *Server) AlterDatabase(ctx context.Context, name string, patch httpapi.PolicyPatch) (base.Policy, error) {
	db, err := s.node.Database(name)
	if err != nil {
		return base.Policy{}, err
	}
	p, err := patch.Apply(db.Policy)
	if err != nil {
		return db.Policy, err
	}
	_, err = s.node.Propose(ctx, catalog.AlterDatabase{Database: db.ID, Policy: p, Was: &db.Policy})
	return p, err
}

// DropDatabase implements httpapi.Node.
func (s *Server) DropDatabase(ctx context.Context, name string) error {
	return s.node.DropDatabase(ctx, name)
}

// ListDatabases implements httpapi.Node.
func (s *Server) ListDatabases(context.Context) ([]httpapi.Database, error) {
	list := []httpapi.Database{}
	for _, name := range s.node.Gateway().Databases() {
		db, err := s.node.Database(name)
		if err != nil {
			continue // Dropped in between.
		}
		d := httpapi.Database{Name: db.Name, ID: db.ID, Policy: httpapi.Policy(db.Policy), Epoch: db.Epoch, Leader: httpapi.IDString(db.Leader)}
		for _, r := range db.Replicas {
			d.Nodes = append(d.Nodes, r.String())
		}
		list = append(list, d)
	}
	return list, nil
}

// MarkDead implements httpapi.Node.
func (s *Server) MarkDead(ctx context.Context, id base.NodeID) error { return s.node.MarkDead(ctx, id) }

// RemoveNode implements httpapi.Node.
func (s *Server) RemoveNode(ctx context.Context, id base.NodeID) error {
	_, err := s.node.Propose(ctx, catalog.RemoveNode{Node: id})
	return err
}

// CreateUser implements httpapi.Node.
func (s *Server) CreateUser(ctx context.Context, name, password string) error {
	credential, err := scramsecret.New(s.env.Rand, password)
	if err != nil {
		return err
	}
	_, err = s.node.Propose(ctx, catalog.CreateUser{User: name, Credential: credential})
	return err
}

// SetPassword implements httpapi.Node.
func (s *Server) SetPassword(ctx context.Context, name, password string) error {
	credential, err := scramsecret.New(s.env.Rand, password)
	if err != nil {
		return err
	}
	_, err = s.node.Propose(ctx, catalog.SetPassword{User: name, Credential: credential})
	return err
}

// DropUser implements httpapi.Node.
func (s *Server) DropUser(ctx context.Context, name string) error {
	_, err := s.node.Propose(ctx, catalog.DropUser{User: name})
	return err
}

// Grant implements httpapi.Node.
func (s *Server) Grant(ctx context.Context, user, database string, right httpapi.Right) error {
	_, err := s.node.Propose(ctx, catalog.Grant{User: user, Database: database, Right: catalog.Right(right)})
	return err
}

// Revoke implements httpapi.Node.
func (s *Server) Revoke(ctx context.Context, user, database string) error {
	_, err := s.node.Propose(ctx, catalog.Revoke{User: user, Database: database})
	return err
}

// ListUsers implements httpapi.Node.
func (s *Server) ListUsers(context.Context) ([]httpapi.User, error) {
	list := []httpapi.User{}
	for _, u := range s.node.Control().State().Users() {
		user := httpapi.User{Name: u.Name, Grants: []httpapi.Grant{}}
		for _, g := range u.Grants {
			user.Grants = append(user.Grants, httpapi.Grant{Database: g.Database, Right: httpapi.Right(g.Right)})
		}
		list = append(list, user)
	}
	return list, nil
}

// Right implements httpapi.Node.
func (s *Server) Right(user, database string) httpapi.Right {
	u, ok := s.node.Control().State().User(user)
	if !ok {
		return httpapi.RightNone
	}
	return httpapi.Right(u.Right(database))
}

// Switchover implements httpapi.Node.
func (s *Server) Switchover(ctx context.Context, database string, target base.NodeID) (base.NodeID, error) {
	return s.node.Switchover(ctx, database, target)
}

// Failover implements httpapi.Node.
func (s *Server) Failover(ctx context.Context, database string, target base.NodeID, acceptLoss bool) (base.NodeID, error) {
	return s.node.Failover(ctx, database, target, acceptLoss)
}

// Snapshot implements httpapi.Node. The file is removed when it is closed.
func (s *Server) Snapshot(ctx context.Context, database string) (io.ReadCloser, int64, base.Position, error) {
	r, err := s.node.Replica(database)
	if err != nil {
		return nil, 0, base.Position{}, err
	}
	dir := s.downloads()
	if err := s.env.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, 0, base.Position{}, fmt.Errorf("make snapshot: %w", err)
	}
	path := fmt.Sprintf("%s/%016x.sqlite", dir, s.env.Rand.Uint64())
	at, err := r.WriteSnapshot(ctx, path)
	if err != nil {
		return nil, 0, at, errors.Join(err, s.env.FS.RemoveAll(path))
	}
	f, err := s.env.FS.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, 0, at, errors.Join(err, s.env.FS.RemoveAll(path))
	}
	size, err := f.Size()
	if err != nil {
		return nil, 0, at, errors.Join(err, f.Close(), s.env.FS.RemoveAll(path))
	}
	return &download{Reader: io.NewSectionReader(f, 0, size), file: f, fs: s.env.FS, path: path}, size, at, nil
}

// downloads is where snapshots are made that a person keeps.
func (s *Server) downloads() string { return s.config.Dir + "/download" }

// download is a file that goes away with its reader.
type download struct {
	io.Reader
	file env.File
	fs   env.FS
	path string
}

// Close implements io.Closer.
func (d *download) Close() error { return errors.Join(d.file.Close(), d.fs.RemoveAll(d.path)) }
