package raftstore

import (
	"context"
	"errors"
	"fmt"

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
// its log is kept, committed or not; what only lost replicas had is gone. Every
// other replica must be emptied and join again, or it may disagree for ever.
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
	id, err := d.replicaID(cfg.NodeID)
	if err != nil {
		return Recovered{}, errors.Join(fmt.Errorf("recover: %w", err), d.close(0))
	}
	applied := &appliedIndex{}
	var halted error
	f := &fsm{
		machine: newMachine(constraints), history: newHistory(cfg.Limits),
		applied: applied, metrics: m, halt: func(err error) { halted = err },
		announce: func(announcement) {},
	}
	_, transport := raft.NewInmemTransport(raft.ServerAddress(cfg.Addr))
	group := raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: id, Address: raft.ServerAddress(cfg.Addr),
	}}}
	err = raft.RecoverCluster(raftConfig(&cfg, id, cfg.Logger), f, d.logs, d.stable, d.snapshots, transport, group)
	if halted != nil {
		err = halted
	}
	if err = errors.Join(err, d.close(applied.get())); err != nil {
		return Recovered{}, fmt.Errorf("recover: %w", err)
	}
	now := f.history.current()
	return Recovered{Revision: now.revision, Keys: now.tree.Len(), Index: applied.get()}, nil
}
