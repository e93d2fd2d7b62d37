package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Store is a replica. All methods may be called from any goroutine.
type Store struct {
	cfg         Config
	id          raft.ServerID // NodeID/ID of the data directory
	log         *slog.Logger
	constraints constraintSet
	metrics     *metrics
	levels      *levelState
	raising     chan struct{} // held by whoever raises the feature level, or adds a replica

	disk      *disk
	group     *group
	history   *history
	applied   *appliedIndex
	digests   *digestLog
	fsm       *fsm
	raft      *guardedRaft
	stopped   chan struct{} // closed when raft has shut down
	stopOnce  sync.Once
	transport *meshTransport
	proposer  *proposer
	reads     *readIndexer // for reads made on this replica
	served    *readIndexer // for reads that other replicas ask for; never forwarded
	peers     *peers
	autopilot *autopilotState
	leases    *leases
	source    *source    // feeds others
	feed      *feed      // feeds this replica
	followers *followers // those that the leader has heard of
	awake     *awakeClock

	checkpoints    *checkpoints
	checkpointGate checkpointGate
	voterLog       *voterLog
	trust          *trust

	toAnnounce *latest[announcement] // applied here, to be sent to the others by a leader
	announced  *latest[announcement] // received from the leader

	readyTerm    atomic.Uint64 // term in which this leader may serve reads
	leaderChange broadcast
	tenures      tenures
	tasks        tasks
	snapshotting sync.Mutex
	left         atomic.Bool     // Leave was called
	base         context.Context // ends with the store
	closing      <-chan struct{}
	stranger     chan struct{} // holds a token when a replica that does not vote says that it leads
	cancel       context.CancelFunc
	closeOnce    sync.Once
	closeErr     error

	failure struct {
		sync.Mutex
		err    error
		failed chan struct{}
	}
}

// Open starts a replica from the state in cfg.DataDir. Without state, the replica
// becomes the first voter of a new group if cfg.Bootstrap is set; otherwise it
// waits until Join adds it to a group. Open returns before a leader is known.
//
// Open takes ownership of the stream layers: Close closes them. An Open that fails
// closes them too, except when the configuration is invalid.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	constraints, err := newConstraintSet(cfg.Constraints)
	if err != nil {
		return nil, err
	}
	awake := newAwakeClock(max(1, cfg.Voters.Update/awakeTicks))
	s := &Store{
		cfg:         cfg,
		log:         cfg.Logger.With("node", cfg.NodeID),
		constraints: constraints,
		metrics:     newMetrics(cfg.Registerer),
		levels:      newLevelState(cfg.FeatureLevel),
		raising:     make(chan struct{}, 1),
		history:     newHistory(cfg.Limits),
		applied:     &appliedIndex{},
		digests:     newDigestLog(),
		checkpoints: newCheckpoints(),
		voterLog:    &voterLog{},
		stopped:     make(chan struct{}),
		stranger:    make(chan struct{}, 1),
		toAnnounce:  newLatest[announcement](),
		announced:   newLatest[announcement](),
		leases:      newLeases(),
		source:      newSource(cfg.Limits.SnapshotFeedBytes),
		feed:        newFeed(),
		followers:   newFollowers(awake),
		awake:       awake,
	}
	s.failure.failed = make(chan struct{})
	s.history.slow = s.metrics.slowWatchers.Inc
	s.base, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.closing = s.base.Done()
	s.trust = newTrust(s.saveTrust)
	s.fsm = &fsm{
		machine: newMachine(constraints, cfg.FeatureLevel), history: s.history,
		applied: s.applied, digests: s.digests, checkpoints: s.checkpoints, metrics: s.metrics,
		levels: s.levels, halt: s.haltReplica, announce: s.noteApplied,
		configured: s.configured, restored: s.restored,
	}
	if err := s.start(ctx); err != nil {
		s.cancel()
		return nil, cfg.withRemedy(fmt.Errorf("open store %s: %w", cfg.NodeID, err))
	}
	return s, nil
}

// start opens the disk, Raft and the listeners, and closes all of them on failure.
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
	if s.group, err = openGroup(s.disk, s.log, &s.cfg, s.levels, s.haltReplica); err != nil {
		return err
	}
	if err = s.loadTrust(); err != nil {
		return err
	}
	if err = s.disk.replay(ctx, s.fsm); err != nil {
		s.logStack(err)
		return err
	}
	s.trust.checkReplayed(s.digests)
	if s.group.current() != (incarnation{}) {
		if err = s.fsm.checkLevel(); err != nil {
			return err
		}
	}
	s.disk.committed = s.applied.get
	notify := make(chan bool, 8)
	if err = s.startRaft(notify); err != nil {
		return err
	}
	s.proposer = newProposer(s.raft, s.FeatureLevel, s.cfg.Limits, s.metrics, s.closing)
	s.reads = &readIndexer{s: s, fetch: s.readIndex}
	s.served = &readIndexer{s: s, fetch: s.leaderReadIndex}
	s.peers = newPeers(&s.cfg, s.peerOf, s.group, s.log, &s.tasks)
	s.autopilot = newAutopilot(s)
	if err = s.metrics.register(s); err != nil {
		return err
	}
	for _, task := range []func(){s.proposer.batchLoop, s.observeLeader, func() { s.leadLoop(notify) }, s.snapshotLoop, s.serveRPC, s.stopWhenFailed, s.announceCommits, s.deliverAnnouncements, s.compareLoop, s.confirmLoop, func() { s.checkpoints.hashLoop(s.closing) }, s.rejoinLoop, s.feedLoop, s.reportLoop, s.ballastLoop, func() { s.peers.closeIdle(s.closing) }} {
		s.tasks.start(task)
	}
	return nil
}

// startRaft starts hashicorp/raft on this package's disk and transport.
func (s *Store) startRaft(notify chan bool) error {
	conf := raftConfig(&s.cfg, s.id, s.log)
	conf.NotifyCh = notify
	s.transport = newMeshTransport(raft.NetworkTransportConfig{
		Stream:  raftStream{s.cfg.Raft, s.cfg.Addr, s.id, s.group, s.base, s.peerOf},
		MaxPool: 4,
		Timeout: s.cfg.Timing.RPC,
		// One at a time: in v1.8.0 of hashicorp/raft, a pipeline of two that breaks while
		// both are under way never ends. Its follower then hears heartbeats and gets no
		// entries until another replica leads, and the leader cannot be closed.
		MaxRPCsInFlight: 1,
		Logger:          newHclog(s.log, "raft-net"),
	}, &s.tasks, s.closing)
	s.transport.stopped, s.transport.peerOf, s.transport.judge = s.stopped, s.peerOf, s.judgeMessage
	s.transport.abstains, s.transport.behind, s.transport.hung = s.doubtsOwnVote, s.behindSnapshot, s.diskHangs
	s.transport.installed = func(end logPoint) { s.disk.installed.Store(&end) }
	s.disk.logs.ahead = s.transport.ahead
	if s.cfg.Bootstrap {
		first := raft.Server{Suffrage: raft.Voter, ID: s.id, Address: raft.ServerAddress(s.cfg.Addr)}
		if err := s.disk.bootstrap(conf, s.group, s.transport, first); err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
	}
	r, err := raft.NewRaft(conf, s.fsm, raftLog{s.disk.logs, s.disk.installedIndex}, s.disk.stable, s.disk.snapshots, s.transport)
	if err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	s.raft = &guardedRaft{Raft: r, stopped: s.stopped}
	s.tasks.start(s.transport.acceptConns)
	return nil
}

// peerOf returns the node ID of the host at the other end of a connection, "" if peers are
// believed who they are.
func (s *Store) peerOf(conn net.Conn) string {
	if s.cfg.PeerOf == nil {
		return ""
	}
	if greeted, ok := conn.(*greetedConn); ok {
		conn = greeted.Conn
	}
	if peer := s.cfg.PeerOf(conn); peer != "" {
		return peer
	}
	return "unknown/" // no node has such an ID
}

// raftConfig derives the settings of hashicorp/raft from cfg.
func raftConfig(cfg *Config, id raft.ServerID, log *slog.Logger) *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = id
	conf.HeartbeatTimeout = cfg.Timing.Heartbeat
	conf.ElectionTimeout = cfg.Timing.Heartbeat
	// Nothing relies on the lease, since reads and renewals are confirmed by a quorum. A
	// shorter one makes a leader step down, and each election costs entries, whenever a
	// host stands still for a moment.
	conf.LeaderLeaseTimeout = cfg.Timing.Heartbeat
	// Only a fallback, see announce.go.
	conf.CommitTimeout = min(250*time.Millisecond, cfg.Timing.Heartbeat/4)
	conf.Logger = newHclog(log, "raft")
	// A replica that was removed from the group waits to be added again.
	conf.ShutdownOnRemove = false
	conf.NoLegacyTelemetry = true
	// disk.replay restores the state, including the committed part of the log.
	conf.NoSnapshotRestoreOnStart = true
	// snapshotLoop takes the snapshots.
	conf.SnapshotInterval = 24 * time.Hour
	conf.SnapshotThreshold = 1 << 62
	return conf
}

// haltReplica stops the replica for good: it ends waiting calls and shuts Raft
// down. The rest of the process goes on and can read Err.
func (s *Store) haltReplica(err error) {
	s.failure.Lock()
	defer s.failure.Unlock()
	if s.failure.err != nil {
		return
	}
	err = s.cfg.withRemedy(err)
	s.failure.err = err
	close(s.failure.failed)
	s.log.Error("store halted", "err", err)
	s.logStack(err)
	s.history.close(err)
	s.applied.fail(err)
}

// logStack logs where the state machine panicked, if err says that it did.
func (s *Store) logStack(err error) {
	var panicked *panicError
	if errors.As(err, &panicked) {
		s.log.Error("the state machine panicked", "err", err, "stack", string(panicked.stack))
	}
}

// stopWhenFailed shuts Raft down after a failure. It runs in its own goroutine,
// because Raft's Shutdown waits for the goroutine that found the failure.
func (s *Store) stopWhenFailed() {
	select {
	case <-s.failure.failed:
		if err := s.stopRaft(); err != nil {
			s.log.Error("shut raft down", "err", err)
		}
	case <-s.closing:
	}
}

// stopRaft shuts Raft down, waits for it, and ends every wait for a Raft future.
func (s *Store) stopRaft() error {
	err := s.raft.Shutdown().Error()
	s.stopOnce.Do(func() { close(s.stopped) })
	return err
}

// Err returns why the replica halted, wrapping ErrHalted; nil while it runs.
func (s *Store) Err() error {
	s.failure.Lock()
	defer s.failure.Unlock()
	return s.failure.err
}

// Failed returns a channel that is closed when the replica halts; Err then says
// why.
func (s *Store) Failed() <-chan struct{} { return s.failure.failed }

// Close stops the replica and waits for every goroutine it started. Calls in
// progress end with ErrClosed or ErrUnknownOutcome, watches with ErrClosed. Close
// does not transfer leadership: see Leave and TransferLeadership.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.metrics.unregister()
		s.closeErr = s.shutdown()
	})
	return s.closeErr
}

// shutdown stops what start started, in reverse order.
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
		if s.Err() == nil { // a replica that has failed is stopped already, or is at once
			s.raft.drain(2 * s.cfg.Timing.Heartbeat)
		}
		errs = append(errs, s.stopRaft())
	}
	if s.transport != nil {
		errs = append(errs, s.transport.Close())
	} else {
		errs = append(errs, s.cfg.Raft.Close())
	}
	s.tasks.stop()
	s.source.snapshots.closeAll()
	if s.group != nil {
		s.group.close()
	}
	errs = append(errs, s.disk.close(s.fsm.committed()))
	return errors.Join(errs...)
}
