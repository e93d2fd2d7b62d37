package raftstore

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// foundingLog is a log whose first entry is stored together with a second one.
type foundingLog struct {
	raft.LogStore
	second []byte
}

// StoreLog implements raft.LogStore.
func (f foundingLog) StoreLog(l *raft.Log) error {
	return f.StoreLogs([]*raft.Log{l, {Index: l.Index + 1, Term: l.Term, Type: raft.LogCommand, Data: f.second}})
}

// foundingEntry returns the entry that sets the feature level of a new group. Every version
// must read it, to learn that it does not know the level.
func foundingEntry(l groupLevel) []byte {
	first := Txn{RequestID: "found", Ops: []Op{{Key: levelKey, Value: l.encode()}}}
	return encodeEntry(BaseLevel, [][]byte{encodeTxn(&first, 0)})
}

// bootstrap makes an empty disk the first voter of a new group. It leaves a disk
// that holds state as it is, so it may be repeated. The group begins at the highest
// feature level that this version knows.
func (d *disk) bootstrap(conf *raft.Config, g *group, trans raft.Transport, first raft.Server) error {
	if empty, err := d.empty(); err != nil || !empty {
		return err
	}
	fresh := newIncarnation()
	if err := d.setGroup(fresh, true); err != nil {
		return err
	}
	// Raft stores the term before the first entry. If an earlier attempt stopped in
	// between, Raft would take the term for existing state and refuse to bootstrap.
	if err := d.stable.SetUint64(keyTerm, 0); err != nil {
		return fmt.Errorf("reset the term: %w", err)
	}
	var logs raft.LogStore = d.logs
	if highest := g.levels.known.Highest; highest > BaseLevel {
		logs = foundingLog{d.logs, foundingEntry(groupLevel{highest, g.self.version})}
	}
	if err := raft.BootstrapCluster(conf, logs, d.stable, d.snapshots, trans, raft.Configuration{Servers: []raft.Server{first}}); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.joined = true
	g.setOwn(fresh)
	return nil
}
