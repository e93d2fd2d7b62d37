package raftstore

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// AgreesWithVoters reports whether a majority of the voters has the digest that s has
// at its latest log index.
func AgreesWithVoters(s *Store) bool {
	servers, err := s.servers()
	return err == nil && s.agreeWithVoters(s.applied.get(), servers) != nil
}

// TakeWrongDigest does what s does when a replica publishes a digest that nobody has.
func TakeWrongDigest(s *Store) {
	said, err := (statement{group: s.group.current(), index: s.applied.get(), digest: digest{1}}).sign(nil)
	if err != nil {
		panic(err)
	}
	s.takeStatements(encodeBundle([]signedStatement{said}))
}

// PutFutureStatement lets a peer tell s about a log index that nobody has reached.
func PutFutureStatement(s *Store) {
	said, err := (statement{group: s.group.current(), index: 1 << 60, digest: digest{1}}).sign(nil)
	if err != nil {
		panic(err)
	}
	s.putStatements(encodeBundle([]signedStatement{said}))
}

// MakeCheckpoint makes the leader s write a checkpoint, and returns its log index.
func MakeCheckpoint(t interface{ Fatal(...any) }, s *Store) uint64 {
	if err := s.raft.Barrier(0).Error(); err != nil {
		t.Fatal(err)
	}
	f := s.raft.Apply(encodeEntry(BaseLevel, nil), 0)
	if err := f.Error(); err != nil {
		t.Fatal(err)
	}
	return f.Index()
}

// CheckpointHash returns the hash of the state of s after the checkpoint at index.
func CheckpointHash(s *Store, index uint64) (string, bool) {
	h, ok := s.checkpoints.at(index)
	return h.String(), ok
}

// UseBolt makes cfg keep its log in a bolt file, for benchmarks.
func UseBolt(cfg *Config) {
	cfg.openLog = func(dir string) (diskLog, error) {
		return raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
	}
}

// WrapLog makes every write to the log call fail first, and fail if it returns an
// error. It simulates a failing or slow disk.
func WrapLog(cfg *Config, fail func() error) {
	cfg.openLog = func(dir string) (diskLog, error) {
		w, err := openWAL(cfg, dir, cfg.Logger, nil)
		return failingLog{walLog: w, fail: fail}, err
	}
}

// WrapReads makes the opening of the log ("Open") and its reads call fail first, and fail
// if it returns an error.
func WrapReads(cfg *Config, fail func(act string) error) {
	cfg.openLog = func(dir string) (diskLog, error) {
		if err := fail("Open"); err != nil {
			return nil, err
		}
		w, err := openWAL(cfg, dir, cfg.Logger, nil)
		return failingLog{w, func() error { return nil }, fail}, err
	}
}

// WrapDeletes makes every deletion of entries call before first.
func WrapDeletes(cfg *Config, before func()) {
	cfg.openLog = func(dir string) (diskLog, error) {
		w, err := openWAL(cfg, dir, cfg.Logger, nil)
		return slowDeletes{w, before}, err
	}
}

// SendSnapshot makes the leader s send its newest snapshot to another replica.
func SendSnapshot(s, to *Store) error {
	list, err := s.disk.listSnapshots()
	if err != nil {
		return err
	}
	meta, r, err := s.disk.snapshots.Open(list[0].ID)
	if err != nil {
		return err
	}
	defer r.Close()
	var answer raft.InstallSnapshotResponse
	err = s.transport.InstallSnapshot(to.id, raft.ServerAddress(to.cfg.Addr), &raft.InstallSnapshotRequest{
		RPCHeader:       headerOf(s),
		SnapshotVersion: raft.SnapshotVersionMax, Term: s.raft.CurrentTerm(),
		LastLogIndex: meta.Index, LastLogTerm: meta.Term, Size: meta.Size,
		Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex,
	}, &answer, r)
	if err == nil && !answer.Success {
		err = errors.New("the snapshot was not taken")
	}
	return err
}

// OpenLog opens a log as a replica with cfg does.
func OpenLog(cfg *Config, dir string) (interface {
	raft.LogStore
	Close() error
}, error) {
	return openWAL(cfg, dir, cfg.Logger, nil)
}

// InterruptRecovery leaves cfg.DataDir as an interrupted recovery leaves it.
func InterruptRecovery(cfg Config) error {
	return onDisk(cfg, func(d *disk) error {
		fresh := newIncarnation()
		return d.stable.Set(keyRecovering, fresh[:])
	})
}

// InterruptBootstrap leaves cfg.DataDir as an interrupted bootstrap leaves it.
func InterruptBootstrap(cfg Config) error {
	return onDisk(cfg, func(d *disk) error {
		return errors.Join(d.setGroup(newIncarnation(), true), d.stable.SetUint64(keyTerm, 1))
	})
}

func onDisk(cfg Config, do func(*disk) error) error {
	d, err := openDisk(&cfg, cfg.Logger, newMetrics(nil))
	if err != nil {
		return err
	}
	return errors.Join(do(d), d.close(0))
}

// AllowFollowers makes a version that lets replicas follow outside the Raft configuration.
func AllowFollowers(cfg *Config) { cfg.FeatureLevel = LevelRange{BaseLevel, FollowersLevel} }

// Configuration returns the nodes in the latest Raft configuration that s knows.
func Configuration(s *Store) (nodes []string) {
	servers, _ := s.servers()
	for _, srv := range servers {
		nodes = append(nodes, nodeOf(srv.ID))
	}
	return nodes
}

// Spares returns the nodes that the leader s would promote next.
func Spares(s *Store) []string { return s.autopilot.nextVoters() }

// ProposeEntry gives Raft an entry with t alone, without waiting for what comes of the ones
// before, as earlier versions did. It does not say what comes of it.
func ProposeEntry(s *Store, t Txn) {
	t.RequestID = t.Ops[0].Key
	s.raft.Raft.Apply(encodeEntry(s.FeatureLevel(), [][]byte{encodeTxn(&t, s.history.current().seq)}), time.Second)
}

// ResignFor makes s ask the leader for the vote of another node.
func ResignFor(ctx context.Context, s *Store, node string) error { return s.giveUpVote(ctx, node) }

// HoldReady makes a leader one that has not applied its log yet, until the function is called that
// it returns.
func HoldReady(s *Store) (release func()) {
	term := s.readyTerm.Swap(0)
	return func() { s.readyTerm.Store(term) }
}
