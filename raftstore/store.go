package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Store is a replica. All methods may be called from any goroutine.
type Store struct {
	cfg         Config
	id          raft.ServerID // NodeID and the data directory's own part
	log         *slog.Logger
	constraints constraintSet
	metrics     *metrics

	disk      *disk
	group     *group
	history   *history
	applied   *appliedIndex
	fsm       *fsm
	raft      *guardedRaft
	stopped   chan struct{} // closed when raft has shut down
	stopOnce  sync.Once
	transport *meshTransport
	proposer  *proposer
	reads     *readIndexer // for reads here
	served    *readIndexer // for other replicas, never forwarded
	peers     *peers
	autopilot *autopilotState

	toAnnounce *latest // committed here, for the others
	announced  *latest // committed at the leader

	readyTerm    atomic.Uint64 // term in which this leader may serve reads
	leaderChange broadcast
	tenures      tenures
	tasks        tasks
	snapshotting sync.Mutex
	left         atomic.Bool     // Leave was called
	base         context.Context // ends with the store
	closing      <-chan struct{}
	cancel       context.CancelFunc
	closeOnce    sync.Once
	closeErr     error

	failure struct {
		sync.Mutex
		err    error
		failed chan struct{}
	}
}

// Open starts a replica from the state in cfg.DataDir. Without state it begins
// as the first voter of a new group if cfg.Bootstrap is set, and otherwise waits
// to be added by Join. It returns before a leader is known.
//
// Open takes the stream layers over: Close closes them, and so does an Open that
// fails for another reason than the configuration.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	constraints, err := newConstraintSet(cfg.Constraints)
	if err != nil {
		return nil, err
	}
	s := &Store{
		cfg:         cfg,
		log:         cfg.Logger.With("node", cfg.NodeID),
		constraints: constraints,
		metrics:     newMetrics(cfg.Registerer),
		history:     newHistory(cfg.Limits),
		applied:     &appliedIndex{},
		stopped:     make(chan struct{}),
		toAnnounce:  newLatest(),
		announced:   newLatest(),
	}
	s.failure.failed = make(chan struct{})
	s.history.slow = s.metrics.slowWatchers.Inc
	s.base, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.closing = s.base.Done()
	s.fsm = &fsm{
		machine: newMachine(constraints), history: s.history,
		applied: s.applied, metrics: s.metrics, halt: s.fail, announce: s.toAnnounce.put,
	}
	if err := s.start(ctx); err != nil {
		s.cancel()
		return nil, fmt.Errorf("open store %s: %w", cfg.NodeID, err)
	}
	return s, nil
}

// start opens the disk, raft and the listeners, and undoes it all on failure.
func (s *Store) start(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, s.shutdown())
		}
	}()
	if s.disk, err = openDisk(&s.cfg, s.log, s.metrics); err != nil {
		return err
	}
	if s.id, err = s.disk.replicaID(s.cfg.NodeID); err != nil {
		return err
	}
	if s.group, err = openGroup(s.disk, s.log, s.cfg.DataDir, s.fail); err != nil {
		return err
	}
	if err = s.disk.replay(ctx, s.fsm); err != nil {
		return err
	}
	s.disk.committed = s.applied.get
	notify := make(chan bool, 8)
	if err = s.startRaft(notify); err != nil {
		return err
	}
	s.proposer = newProposer(s.raft, s.cfg.Limits, s.metrics, &s.tasks, s.closing)
	s.reads = &readIndexer{s: s, fetch: s.readIndex}
	s.served = &readIndexer{s: s, fetch: s.leaderReadIndex}
	s.peers = newPeers(&s.cfg, s.group, s.log, &s.tasks)
	s.autopilot = newAutopilot(s)
	if err = s.metrics.register(s); err != nil {
		return err
	}
	for _, task := range []func(){s.proposer.run, s.observeLeader, func() { s.lead(notify) }, s.snapshotLoop, s.serve, s.stopWhenFailed, s.announce, s.heed, s.rejoinLoop} {
		s.tasks.start(task)
	}
	return nil
}

// startRaft starts the library over our disk and transport.
func (s *Store) startRaft(notify chan bool) error {
	conf := raftConfig(&s.cfg, s.id, s.log)
	conf.NotifyCh = notify
	s.transport = &meshTransport{
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream:  raftStream{s.cfg.Raft, s.cfg.Addr, s.id, s.group, s.base},
			MaxPool: 4,
			Timeout: s.cfg.Timing.RPC,
			Logger:  newHclog(s.log, "raft-net"),
		}),
		rpcs: make(chan raft.RPC),
	}
	s.tasks.start(func() { s.transport.run(s.closing) })
	if s.cfg.Bootstrap {
		first := raft.Server{Suffrage: raft.Voter, ID: s.id, Address: raft.ServerAddress(s.cfg.Addr)}
		if err := s.disk.bootstrap(conf, s.group, s.transport, first); err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
	}
	r, err := raft.NewRaft(conf, s.fsm, s.disk.logs, s.disk.stable, s.disk.snapshots, s.transport)
	if err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	s.raft = &guardedRaft{r, s.stopped}
	return nil
}

// raftConfig derives the library's settings from ours.
func raftConfig(cfg *Config, id raft.ServerID, log *slog.Logger) *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = id
	conf.HeartbeatTimeout = cfg.Timing.Heartbeat
	conf.ElectionTimeout = cfg.Timing.Heartbeat
	conf.LeaderLeaseTimeout = cfg.Timing.Heartbeat / 2
	// Only a fallback, see announce.
	conf.CommitTimeout = min(250*time.Millisecond, cfg.Timing.Heartbeat/4)
	conf.Logger = newHclog(log, "raft")
	// A replica that was removed waits to be added again.
	conf.ShutdownOnRemove = false
	conf.NoLegacyTelemetry = true
	// The state is restored by replay, which also covers the committed log.
	conf.NoSnapshotRestoreOnStart = true
	// Snapshots are taken by snapshotLoop.
	conf.SnapshotInterval = 24 * time.Hour
	conf.SnapshotThreshold = 1 << 62
	return conf
}

// fail stops the replica for good: waiting calls end, and so does raft. The rest
// of the process goes on, and reads Err.
func (s *Store) fail(err error) {
	s.failure.Lock()
	defer s.failure.Unlock()
	if s.failure.err != nil {
		return
	}
	s.failure.err = err
	close(s.failure.failed)
	s.log.Error("store halted", "err", err)
	s.history.close(err)
	s.applied.fail(err)
}

// stopWhenFailed shuts raft down after a failure, away from raft's own goroutine
// that found it and that Shutdown waits for.
func (s *Store) stopWhenFailed() {
	select {
	case <-s.failure.failed:
		if err := s.stopRaft(); err != nil {
			s.log.Error("shut raft down", "err", err)
		}
	case <-s.closing:
	}
}

// stopRaft shuts raft down, waits for it, and ends whoever waits for its futures.
func (s *Store) stopRaft() error {
	err := s.raft.Shutdown().Error()
	s.stopOnce.Do(func() { close(s.stopped) })
	return err
}

// Err says why the replica halted, with ErrHalted in it; nil while it is well.
func (s *Store) Err() error {
	s.failure.Lock()
	defer s.failure.Unlock()
	return s.failure.err
}

// Failed is closed when the replica has halted; Err says why.
func (s *Store) Failed() <-chan struct{} { return s.failure.failed }

// Close stops the replica and waits for all it started. Calls under way end with
// ErrClosed or ErrUnknownOutcome, watches with ErrClosed. A leader does not hand
// over: see Leave and TransferLeadership.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.metrics.unregister()
		s.closeErr = s.shutdown()
	})
	return s.closeErr
}

// shutdown stops what was started, in reverse.
func (s *Store) shutdown() error {
	var errs []error
	s.cancel()
	s.history.close(ErrClosed)
	s.applied.fail(ErrClosed)
	errs = append(errs, s.cfg.RPC.Close())
	if s.peers != nil {
		s.peers.close()
	}
	if s.raft != nil {
		errs = append(errs, s.stopRaft())
	}
	if s.transport != nil {
		errs = append(errs, s.transport.Close())
	} else {
		errs = append(errs, s.cfg.Raft.Close())
	}
	s.tasks.stop()
	if s.group != nil {
		s.group.close()
	}
	errs = append(errs, s.disk.close(s.applied.get()))
	return errors.Join(errs...)
}
