package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// Backup writes the whole state to w, including every write acknowledged before
// the call. Writes continue meanwhile. RestoreBackup restores it.
func (s *Store) Backup(ctx context.Context, w io.Writer) (revision uint64, err error) {
	if err := s.awaitFreshness(ctx, ReadOptions{}); err != nil {
		return 0, fmt.Errorf("back up: %w", err)
	}
	now := s.history.current()
	// Remembered requests are left out, since no retry continues in a restored mesh, and
	// so is the digest: a restored mesh begins anew with it.
	b := &snapshot{tree: now.tree, index: 1, revision: now.revision, madeBy: s.cfg.Version}
	if err := b.write(w); err != nil {
		return 0, fmt.Errorf("back up: %w", err)
	}
	return now.revision, nil
}

// RestoreBackup founds a new group from a backup. It writes the backup's records to
// cfg.DataDir, which must hold no state yet, and makes cfg.NodeID the only voter. Open
// then starts the replica, and other hosts can join it. The new group refuses replicas
// of other groups, see ErrReplaced. Its revisions begin above those of before, and
// found returns its first writes, as for RecoverCluster.
//
// A backup that was made at a feature level that cfg does not know is refused with
// ErrFeatureLevel.
//
// Of cfg, RestoreBackup uses NodeID, Addr, DataDir, FeatureLevel, Limits and Logger.
func RestoreBackup(ctx context.Context, cfg Config, r io.Reader, found Founding) (Recovered, error) {
	if cfg.NodeID == "" || cfg.Addr == "" || cfg.DataDir == "" || cfg.Logger == nil {
		return Recovered{}, errors.New("restore backup: NodeID, Addr, DataDir and Logger are needed")
	}
	m, _, err := readSnapshot(r, nil, cfg.FeatureLevel)
	if err != nil {
		return Recovered{}, fmt.Errorf("restore backup: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return Recovered{}, err
	}
	d, err := openDisk(&cfg, cfg.Logger, newMetrics(nil))
	if err != nil {
		return Recovered{}, fmt.Errorf("restore backup: %w", err)
	}
	copied := m.revision
	if err := errors.Join(d.foundGroup(cfg, m, found), d.close(0)); err != nil {
		return Recovered{}, fmt.Errorf("restore backup: %w", err)
	}
	return Recovered{Copy: copied, Revision: m.revision, Keys: m.tree.Len(), Index: 1}, nil
}

// foundGroup founds a group of one replica that continues from the state of m.
func (d *disk) foundGroup(cfg Config, m *machine, found Founding) error {
	used, err := raft.HasExistingState(d.logs, d.stable, d.snapshots)
	if err != nil {
		return fmt.Errorf("look for state: %w", err)
	}
	if used {
		return fmt.Errorf("%w: %s", ErrHasState, cfg.DataDir)
	}
	id, err := d.replicaID(cfg.NodeID)
	if err != nil {
		return err
	}
	fresh := newIncarnation()
	if err := m.beginTimeline(fresh, found); err != nil {
		return err
	}
	if err := d.setGroup(fresh, true); err != nil {
		return err
	}
	_, transport := raft.NewInmemTransport(raft.ServerAddress(cfg.Addr))
	group := raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: id, Address: raft.ServerAddress(cfg.Addr),
	}}}
	sink, err := d.snapshots.Create(raft.SnapshotVersionMax, 1, 1, group, 1, transport)
	if err != nil {
		return fmt.Errorf("create snapshot: %w", err)
	}
	return m.snapshot(1).Persist(sink)
}
