package raftstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
)

// Recovered says what RecoverCluster kept.
type Recovered struct {
	Revision uint64
	Keys     int
	// Index is the last log index of the recovered state.
	Index uint64
}

// RecoverCluster makes the replica in cfg.DataDir the only voter of its group,
// after most voters were lost for good. The replica must not be running. All of
// its log is kept, committed or not; what only lost replicas had is gone. What it
// makes is a new group: replicas of the old one are refused, see ErrReplaced, until
// they are emptied and join again. An interrupted recovery must be repeated.
//
// Of cfg it uses NodeID, Addr, DataDir, Constraints, Limits and Logger.
func RecoverCluster(ctx context.Context, cfg Config) (Recovered, error) {
	if cfg.NodeID == "" || cfg.Addr == "" || cfg.DataDir == "" || cfg.Logger == nil {
		return Recovered{}, errors.New("recover: NodeID, Addr, DataDir and Logger are needed")
	}
	if err := ctx.Err(); err != nil {
		return Recovered{}, err
	}
	constraints, err := newConstraintSet(cfg.Constraints)
	if err != nil {
		return Recovered{}, fmt.Errorf("recover: %w", err)
	}
	m := newMetrics(nil)
	d, err := openDisk(&cfg, cfg.Logger, m)
	if err != nil {
		return Recovered{}, fmt.Errorf("recover: %w", err)
	}
	f, err := d.recover(&cfg, constraints, m)
	if err = errors.Join(err, d.close(f.applied.get())); err != nil {
		return Recovered{}, fmt.Errorf("recover: %w", err)
	}
	now := f.history.current()
	return Recovered{Revision: now.revision, Keys: now.tree.Len(), Index: f.applied.get()}, nil
}

// recover makes the disk the only voter of a new group. The new incarnation is
// announced on the disk before and set after it: a replica that stopped in between
// must neither speak for the old group nor claim to have replaced it.
func (d *disk) recover(cfg *Config, constraints constraintSet, m *metrics) (*fsm, error) {
	var halted error
	f := &fsm{
		machine: newMachine(constraints), history: newHistory(cfg.Limits),
		applied: &appliedIndex{}, metrics: m, halt: func(err error) { halted = err },
		announce: func(announcement) {},
	}
	id, err := d.replicaID(cfg.NodeID)
	if err != nil {
		return f, err
	}
	if empty, err := d.empty(); err != nil || empty {
		return f, errors.Join(err, fmt.Errorf("%s holds no state", cfg.DataDir))
	}
	var old [3]incarnation
	for i, key := range [][]byte{keyGroup, keyReplaced, keyRecovering} {
		if old[i], err = d.incarnation(key); err != nil {
			return f, err
		}
	}
	fresh := newIncarnation(old[:]...)
	if err := d.stable.Set(keyRecovering, fresh[:]); err != nil {
		return f, fmt.Errorf("store %s: %w", keyRecovering, err)
	}
	_, transport := raft.NewInmemTransport(raft.ServerAddress(cfg.Addr))
	voters := raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: id, Address: raft.ServerAddress(cfg.Addr),
	}}}
	err = raft.RecoverCluster(raftConfig(cfg, id, cfg.Logger), f, d.logs, d.stable, d.snapshots, transport, voters)
	if halted != nil {
		err = halted
	}
	if err != nil {
		return f, err
	}
	return f, d.setGroup(fresh, true)
}

// Empty throws away the state in a data directory, so that the replica can join
// again. It must not be running. An interrupted Empty must be repeated: what is
// left cannot be opened.
func Empty(dir string) error {
	lock, err := lockDir(dir, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("empty %s: %w", dir, err)
	}
	// The log goes first, it says which group the snapshots are of.
	for _, name := range []string{"wal", "snapshots"} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
	}
	if err = errors.Join(err, lock.Close()); err != nil {
		return fmt.Errorf("empty %s: %w", dir, err)
	}
	return nil
}
