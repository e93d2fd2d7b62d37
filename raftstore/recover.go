package raftstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/raft"
)

// Recovered describes the state that RecoverCluster kept or RestoreBackup wrote.
type Recovered struct {
	// Copy is the revision of the copy that the new group continues from. Revision is
	// where its own timeline begins, and is above every revision of before.
	Copy, Revision uint64
	Keys           int
	// Index is the last log index of the recovered state.
	Index uint64
	// Followed reports whether RecoverCluster kept the copy of a replica that did not vote.
	// Such a copy came from other hosts, which may have lied, and no voter can confirm its
	// newest part any more.
	Followed bool
}

// RecoverCluster founds a new group whose only voter is the replica in cfg.DataDir.
// Use it when most voters are lost for good. The replica must not be running. Its
// whole log is kept, committed or not; writes that only lost replicas had are gone.
// The new group refuses replicas of the old one, see ErrReplaced, until their data
// directories are emptied and they join again. An interrupted recovery must be
// repeated.
//
// The new group never goes back in time: its revisions begin above all that the old
// group can have given out. Watches and lists at a revision of before end with
// ErrCompacted, and conditions on one conflict. found, if not nil, returns the first
// writes of the new group; with an error it refuses the copy, which stays as it was.
//
// Of cfg, RecoverCluster uses NodeID, Addr, DataDir, Constraints, FeatureLevel, Limits and
// Logger.
func RecoverCluster(ctx context.Context, cfg Config, found Founding) (Recovered, error) {
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
	voted, votedErr := d.voted(cfg.NodeID)
	if votedErr != nil { // it only tells how new the copy may be, so no recovery fails for it
		cfg.Logger.Warn("whether this replica voted is not known", "err", votedErr)
	}
	f, copied, err := d.recoverGroup(&cfg, constraints, m, found)
	if err = errors.Join(err, d.close(f.committed())); err != nil {
		return Recovered{}, fmt.Errorf("recover: %w", err)
	}
	return Recovered{Copy: copied, Revision: f.machine.revision, Keys: f.machine.tree.Len(), Index: f.applied.get(), Followed: votedErr == nil && !voted}, nil
}

// voted reports whether the replica votes by the newest configuration on the disk.
func (d *disk) voted(node string) (bool, error) {
	id, err := d.replicaID(node)
	if err != nil {
		return false, err
	}
	first, err := d.logs.FirstIndex()
	if err != nil {
		return false, fmt.Errorf("read the log: %w", err)
	}
	last, err := d.logs.LastIndex()
	if err != nil {
		return false, fmt.Errorf("read the log: %w", err)
	}
	list, err := d.listSnapshots()
	if err != nil {
		return false, err
	}
	var snapshot raft.SnapshotMeta
	if len(list) > 0 {
		snapshot = *list[0]
	}
	votes := func(c raft.Configuration) bool {
		return slices.ContainsFunc(c.Servers, func(s raft.Server) bool { return s.ID == id && s.Suffrage == raft.Voter })
	}
	var entry raft.Log
	for index := last; index >= max(first, snapshot.ConfigurationIndex+1); index-- {
		if err := d.logs.GetLog(index, &entry); err != nil {
			return false, fmt.Errorf("read the log at %d: %w", index, err)
		}
		if entry.Type == raft.LogConfiguration {
			return votes(raft.DecodeConfiguration(entry.Data)), nil
		}
	}
	return votes(snapshot.Configuration), nil
}

// recoverGroup makes the disk the only voter of a new group. It stores the new
// incarnation under keyRecovering before the change and under keyGroup after it. A
// replica that stopped in between must neither act for the old group nor claim to
// have replaced it. copied is the revision before the new timeline began.
func (d *disk) recoverGroup(cfg *Config, constraints constraintSet, m *metrics, found Founding) (f *fsm, copied uint64, err error) {
	var halted error
	f = &fsm{
		machine: newMachine(constraints, cfg.FeatureLevel), history: newHistory(cfg.Limits),
		applied: &appliedIndex{}, digests: newDigestLog(), checkpoints: newCheckpoints(), metrics: m,
		levels: newLevelState(cfg.FeatureLevel), halt: func(err error) { halted = err },
		announce: func(announcement) {}, configured: func(uint64, []raft.Server) {}, restored: func(uint64) {},
	}
	id, err := d.replicaID(cfg.NodeID)
	if err != nil {
		return f, 0, err
	}
	if empty, err := d.empty(); err != nil || empty {
		return f, 0, errors.Join(err, fmt.Errorf("%s holds no state", cfg.DataDir))
	}
	fresh, err := d.nextIncarnation()
	if err != nil {
		return f, 0, err
	}
	earlier, err := d.get(keyRecovering)
	if err != nil {
		return f, 0, err
	}
	if err := d.stable.Set(keyRecovering, fresh[:]); err != nil {
		return f, 0, fmt.Errorf("store %s: %w", keyRecovering, err)
	}
	if err := d.dropLogBesideSnapshot(); err != nil {
		return f, 0, err
	}
	_, transport := raft.NewInmemTransport(raft.ServerAddress(cfg.Addr))
	voters := raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: id, Address: raft.ServerAddress(cfg.Addr),
	}}}
	recovering := recoveringFSM{f, func() error {
		copied = f.machine.revision
		if halted = f.checkLevel(); halted != nil {
			return halted
		}
		halted = f.machine.beginTimeline(fresh, found)
		return halted
	}}
	err = raft.RecoverCluster(raftConfig(cfg, id, cfg.Logger), recovering, d.logs, d.stable, d.snapshots, transport, voters)
	if halted != nil { // this version cannot judge the copy, or found refused it: it is as it was
		return f, copied, errors.Join(halted, d.stable.Set(keyRecovering, earlier))
	}
	if err != nil {
		return f, copied, err
	}
	return f, copied, d.setGroup(fresh, true)
}

// dropLogBesideSnapshot drops a log that does not lead to the newest snapshot, which raft would
// apply on top of that. If the snapshot cannot be read, raft takes an earlier one, and the log
// may belong to that.
func (d *disk) dropLogBesideSnapshot() error {
	list, err := d.listSnapshots()
	if err != nil || len(list) == 0 {
		return err
	}
	meta, r, err := d.snapshots.Open(list[0].ID)
	if err != nil {
		return nil
	}
	defer func() { _ = r.Close() }()
	_, err = d.dropOtherLog(meta.Index, meta.Term)
	return err
}

// nextIncarnation returns an incarnation that is later than all those that the disk has
// heard of.
func (d *disk) nextIncarnation() (incarnation, error) {
	var old [3]incarnation
	for i, key := range [][]byte{keyGroup, keyReplaced, keyRecovering} {
		var err error
		if old[i], err = d.incarnation(key); err != nil {
			return incarnation{}, err
		}
	}
	return newIncarnation(old[:]...), nil
}

// Empty deletes the state in a data directory, so that the replica can join again.
// The replica must not be running. An interrupted Empty must be repeated, because
// the remaining files cannot be opened.
func Empty(dir string) error {
	lock, err := lockDir(dir, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("empty %s: %w", dir, err)
	}
	// The log goes first: the stable store in it says which group the snapshots
	// belong to, and without it they cannot be opened.
	for _, name := range []string{"wal", "snapshots"} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
	}
	if err = errors.Join(err, lock.Close()); err != nil {
		return fmt.Errorf("empty %s: %w", dir, err)
	}
	return nil
}

// IsEmpty reports whether a data directory holds no state, for example because Empty has
// deleted it.
func IsEmpty(dir string) bool {
	for _, name := range []string{"wal", "snapshots"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			return false
		}
	}
	return true
}
