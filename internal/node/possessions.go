package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
)

// possessionsFile lists, in the data folder, the databases of which this node
// has a replica. It is what tells a folder below db that was taken away from one
// that has never been.
const possessionsFile = "replicas.json"

// possessions is that list. Reads do not wait for writes.
type possessions struct {
	env     *env.Env
	dir     string
	writing chan struct{} // held by who writes the file; no mutex, as it is held over disk calls
	mu      struct {
		sync.Mutex // guards all below
		list       possessionsJSON
	}
}

type possessionsJSON struct {
	Version   int               `json:"version"`
	Databases []base.DatabaseID `json:"databases"`
	// All says that an earlier list was damaged: any database may have been here.
	// Below is what becomes of it: any with a lower id.
	All   bool            `json:"all,omitempty"`
	Below base.DatabaseID `json:"below,omitempty"`
	CRC   uint32          `json:"crc32c"`
}

func (j possessionsJSON) sum() uint32 {
	return crc32.Checksum(fmt.Appendf(nil, "%d %d %v %d", j.Version, j.Databases, j.All, j.Below), castagnoli)
}

// open reads the list. Of a damaged one nothing is believed: the node may have
// had a replica of every database.
func (p *possessions) open(e *env.Env, dir string) error {
	p.env, p.dir, p.writing = e, dir, make(chan struct{}, 1)
	b, err := e.FS.ReadFile(dir + "/" + possessionsFile)
	if errors.Is(err, fs.ErrNotExist) {
		p.mu.list = possessionsJSON{Version: 1}
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", possessionsFile, err)
	}
	var j possessionsJSON
	if err := json.Unmarshal(b, &j); err != nil || j.CRC != j.sum() {
		e.Log.Error("the list of this node's replicas is damaged; those whose folders are gone will be copied from other nodes", "file", possessionsFile)
		j = possessionsJSON{Version: 1, All: true}
	}
	if j.Version != 1 {
		return base.Errorf(base.KindUnsupported, "%s/%s has version %d; this program reads version 1", dir, possessionsFile, j.Version)
	}
	p.mu.list = j
	return nil
}

func (p *possessions) has(id base.DatabaseID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.list.All || id < p.mu.list.Below || slices.Contains(p.mu.list.Databases, id)
}

// add makes it durable that there is a replica of a database, and drop that
// there is none.
func (p *possessions) add(id base.DatabaseID) error {
	return p.change(func(j *possessionsJSON) {
		if !slices.Contains(j.Databases, id) {
			j.Databases = append(j.Databases, id)
		}
	})
}

func (p *possessions) drop(id base.DatabaseID) error {
	return p.change(func(j *possessionsJSON) {
		j.Databases = slices.DeleteFunc(j.Databases, func(d base.DatabaseID) bool { return d == id })
	})
}

// bound is told which database will be the next, by a state that is newer than
// this start: it can't have been here when the list was damaged.
func (p *possessions) bound(next base.DatabaseID) error {
	return p.change(func(j *possessionsJSON) {
		if j.All {
			j.All, j.Below = false, next
		}
	})
}

func (p *possessions) change(f func(*possessionsJSON)) error {
	p.writing <- struct{}{}
	defer func() { <-p.writing }()
	p.mu.Lock()
	before := p.mu.list
	p.mu.Unlock()
	j := before
	j.Databases = slices.Clone(j.Databases)
	f(&j)
	if j.All == before.All && slices.Equal(j.Databases, before.Databases) {
		return nil
	}
	slices.Sort(j.Databases)
	j.CRC = j.sum()
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", possessionsFile, err)
	}
	if err := env.WriteFile(p.env.FS, p.dir, possessionsFile, append(b, '\n')); err != nil {
		return fmt.Errorf("write %s: %w", possessionsFile, err)
	}
	p.mu.Lock()
	p.mu.list = j
	p.mu.Unlock()
	return nil
}

// memory is what the node remembers of one replica outside its folder.
type memory struct{ keeper *keeper }

// Had implements leader.Memory.
func (m memory) Had() bool { return m.keeper.node.possessions.has(m.keeper.id) }

// Keep implements leader.Memory.
func (m memory) Keep() error { return m.keeper.node.possessions.add(m.keeper.id) }

// Recorded implements leader.Memory.
func (m memory) Recorded(ctx context.Context) (base.Epoch, error) {
	n := m.keeper.node
	ctx, cancel := n.env.Clock.WithTimeout(ctx, 10*time.Second, base.Errorf(base.KindTimeout, "the control plane did not answer within 10 s"))
	defer cancel()
	if err := n.control.ReadIndex(ctx); err != nil {
		return 0, err
	}
	db, _ := n.control.State().Database(m.keeper.id)
	return db.Epoch, nil
}
