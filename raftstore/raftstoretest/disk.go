package raftstoretest

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft-wal/types"

	"virtmesh/raftstore"
)

// Disk is the simulated disk of a host, for the log of its replica. It survives the
// process that uses it. A loss of power takes what was written and not synced, in whole
// or in part, and the disk can be full.
//
// Snapshots stay on the operating system's disk: they are made under another name, and
// take their place when they are synced.
type Disk struct {
	mu    sync.Mutex
	image *image // as the process that runs now sees it
	full  bool
	sync  time.Duration // that a sync takes
	fuse  int           // steps until act is called; 0 for never
	act   func()
}

// NewDisk returns an empty disk.
func NewDisk() *Disk {
	return &Disk{image: &image{files: map[string]*file{}, stores: map[string]*metaStore{}}}
}

// LogFiles is a value for Config.LogFiles, which keeps the log on the disk.
func (d *Disk) LogFiles(dir string) raftstore.LogFiles {
	d.mu.Lock()
	defer d.mu.Unlock()
	meta := d.image.stores[dir]
	if meta == nil {
		meta = &metaStore{disk: d, stable: map[string][]byte{}}
		d.image.stores[dir] = meta
	}
	return raftstore.LogFiles{Files: volume{d, d.image}, Meta: meta}
}

// Kill ends the process that uses the disk: what it writes from now on goes nowhere.
// What it has written stays.
func (d *Disk) Kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.image, d.fuse = d.image.clone(), 0
}

// LosePower is Kill at which what was not synced is lost. Chance decides which sectors
// of it, and which new files, reach the disk all the same.
func (d *Disk) LosePower(chance *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.image, d.fuse = d.image.clone(), 0
	for _, path := range slices.Sorted(maps.Keys(d.image.files)) {
		if f := d.image.files[path]; f.named || chance.IntN(2) == 0 {
			f.tear(chance)
		} else {
			delete(d.image.files, path)
		}
	}
}

// Fill makes the disk full, or gives it room again. The vote can be stored in any case:
// it replaces an earlier one.
func (d *Disk) Fill(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

// Slow makes every sync, of a log file or of the vote, take a time.
func (d *Disk) Slow(sync time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sync = sync
}

// awaitSync takes the time of a sync.
func (d *Disk) awaitSync() {
	d.mu.Lock()
	took := d.sync
	d.mu.Unlock()
	time.Sleep(took)
}

// Before calls act before one of the next steps of the process that uses the disk: a
// write, a sync, a change of the directory or of the vote. If act calls Kill or LosePower,
// the process dies without that step. Act must not wait for the process.
func (d *Disk) Before(step int, act func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fuse, d.act = step, act
}

// lacksRoom returns an error if the disk is full. The caller holds d.mu.
func (d *Disk) lacksRoom() error {
	if d.full {
		return syscall.ENOSPC
	}
	return nil
}

// step is called before a step.
func (d *Disk) step() {
	d.mu.Lock()
	var act func()
	if d.fuse > 0 {
		if d.fuse--; d.fuse == 0 {
			act, d.act = d.act, nil
		}
	}
	d.mu.Unlock()
	if act != nil {
		act()
	}
}

// image is what is on a disk.
type image struct {
	files  map[string]*file
	stores map[string]*metaStore
}

func (i *image) clone() *image {
	c := &image{files: map[string]*file{}, stores: map[string]*metaStore{}}
	for path, f := range i.files {
		c.files[path] = &file{size: f.size, durable: bytes.Clone(f.durable), pending: slices.Clone(f.pending), named: f.named}
	}
	for dir, m := range i.stores {
		c.stores[dir] = m.clone()
	}
	return c
}

// metaStore is the small store that the log keeps beside its files. A change of it is
// durable at once.
type metaStore struct {
	disk   *Disk
	state  types.PersistentState
	stable map[string][]byte
}

var _ types.MetaStore = (*metaStore)(nil)

// clone returns a copy. The caller holds the lock of the disk.
func (m *metaStore) clone() *metaStore {
	c := &metaStore{disk: m.disk, state: m.state, stable: maps.Clone(m.stable)}
	c.state.Segments = slices.Clone(m.state.Segments)
	return c
}

// Load implements types.MetaStore.
func (m *metaStore) Load(string) (types.PersistentState, error) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	return m.clone().state, nil
}

// CommitState implements types.MetaStore.
func (m *metaStore) CommitState(state types.PersistentState) error {
	m.disk.step()
	m.disk.awaitSync()
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	if err := m.disk.lacksRoom(); err != nil {
		return err
	}
	m.state = state
	m.state.Segments = slices.Clone(state.Segments)
	return nil
}

// GetStable implements types.MetaStore.
func (m *metaStore) GetStable(key []byte) ([]byte, error) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	return bytes.Clone(m.stable[string(key)]), nil
}

// SetStable implements types.MetaStore.
func (m *metaStore) SetStable(key, value []byte) error {
	m.disk.step()
	m.disk.awaitSync()
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.stable[string(key)] = bytes.Clone(value)
	return nil
}

// Close implements types.MetaStore.
func (*metaStore) Close() error { return nil }
