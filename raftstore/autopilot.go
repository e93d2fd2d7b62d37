package raftstore

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
)

// maxTrailingLogs is how many log entries a replica may be behind and still count
// as healthy.
const maxTrailingLogs = 1024

// autopilotState runs autopilot while this replica leads, and keeps the latest
// state that autopilot reported.
type autopilotState struct {
	s      *Store
	policy VoterPolicy
	awake  *awakeClock // the store's, of started, heard and dead

	mu      sync.Mutex
	running *autopilot.Autopilot
	seen    groupView
	dead    map[raft.ServerID]time.Time // dead replicas, and since when
	started time.Time                   // since when this replica has asked the others
	asleep  chan struct{}               // closed when it ceases to
	heard   map[raft.ServerID]time.Time // when each replica last answered

	recruits recruits

	held atomic.Int32 // how many hand over the only vote now
}

// groupView is the state of the group that the leader last saw.
type groupView struct {
	servers  map[raft.ServerID]*autopilot.ServerState
	failures map[raft.ServerID]string
}

var _ autopilot.ApplicationIntegration = (*autopilotState)(nil)

func newAutopilot(s *Store) *autopilotState {
	return &autopilotState{
		s: s, policy: s.cfg.Voters, awake: s.awake, dead: make(map[raft.ServerID]time.Time), heard: make(map[raft.ServerID]time.Time), recruits: newRecruits(),
	}
}

// start starts autopilot, which promotes, demotes and removes replicas.
func (a *autopilotState) start() {
	a.stop()
	p := autopilot.New(a.s.raft, a,
		autopilot.WithLogger(newHclog(a.s.log, "raft")),
		autopilot.WithPromoter(promoter{a}),
		autopilot.WithUpdateInterval(a.policy.Update),
		autopilot.WithReconcileInterval(a.policy.Reconcile))
	a.mu.Lock()
	a.running = p
	clear(a.dead)
	clear(a.heard)
	a.started = a.awake.now()
	done := make(chan struct{})
	a.asleep = done
	busy, doubted := a.recruits.busy, a.recruits.doubted
	a.recruits = newRecruits()
	a.recruits.busy, a.recruits.doubted = busy, doubted // who resigns may be quicker than the start of the one that takes over
	a.mu.Unlock()
	a.s.followers.reset()
	a.s.tasks.start(func() { a.awake.run(done) })
	p.Start(a.s.base)
}

// stop ends autopilot and waits for it.
func (a *autopilotState) stop() {
	a.mu.Lock()
	p, asleep := a.running, a.asleep
	a.running = nil
	a.seen = groupView{}
	a.mu.Unlock()
	if p != nil {
		close(asleep)
		<-p.Stop()
	}
}

// snapshot returns the state of the group that the leader last saw.
func (a *autopilotState) snapshot() groupView {
	a.mu.Lock()
	defer a.mu.Unlock()
	return groupView{servers: a.seen.servers, failures: maps.Clone(a.seen.failures)}
}

// holdVotes keeps autopilot from changing who votes until the function is called that it returns.
func (a *autopilotState) holdVotes() (release func()) {
	a.held.Add(1)
	return func() { a.held.Add(-1) }
}

// deadFor returns how long a replica has been dead.
func (a *autopilotState) deadFor(id raft.ServerID) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	since, ok := a.dead[id]
	if !ok {
		return 0
	}
	return a.awake.since(since)
}

// AutopilotConfig implements autopilot.ApplicationIntegration.
func (a *autopilotState) AutopilotConfig() *autopilot.Config {
	return &autopilot.Config{
		CleanupDeadServers:      a.policy.ForgetAfter > 0 && a.s.cfg.Members != nil,
		LastContactThreshold:    2 * a.s.cfg.Timing.Heartbeat,
		MaxTrailingLogs:         maxTrailingLogs,
		MinQuorum:               uint(min(a.policy.Max, 3)),
		ServerStabilizationTime: a.policy.Stabilization,
	}
}

// NotifyState implements autopilot.ApplicationIntegration.
func (a *autopilotState) NotifyState(s *autopilot.State) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen.servers = s.Servers
	for id, srv := range s.Servers {
		if srv.Server.NodeStatus == autopilot.NodeAlive {
			delete(a.dead, id)
		} else if _, ok := a.dead[id]; !ok {
			a.dead[id] = a.awake.now()
		}
	}
}

// KnownServers implements autopilot.ApplicationIntegration. It returns every
// replica of the group, so that autopilot does not remove a replica only because
// the membership layer of a new leader does not know it yet. A replica is dead only if
// two witnesses say so: the membership layer, and its silence towards the leader.
// The membership layer alone may be split while the group is well.
func (a *autopilotState) KnownServers() map[raft.ServerID]*autopilot.Server {
	servers, err := a.s.servers()
	if err != nil {
		return nil
	}
	members := a.s.members()
	known := make(map[raft.ServerID]*autopilot.Server, len(servers))
	for _, srv := range servers {
		m := members[nodeOf(srv.ID)]
		self := srv.ID == a.s.id
		status := autopilot.NodeFailed
		if m.Alive || self || a.s.cfg.Members == nil || a.silence(srv.ID) < a.silenceLimit() {
			status = autopilot.NodeAlive
		}
		known[srv.ID] = &autopilot.Server{
			ID: srv.ID, Name: string(srv.ID), Address: srv.Address, NodeStatus: status,
			Meta: map[string]string{"zone": m.Zone}, RaftVersion: raft.ProtocolVersionMax, IsLeader: self && a.s.IsLeader(),
		}
	}
	return known
}

// FetchServerStats implements autopilot.ApplicationIntegration.
func (a *autopilotState) FetchServerStats(ctx context.Context, servers map[raft.ServerID]*autopilot.Server) map[raft.ServerID]*autopilot.ServerStats {
	var (
		mu       sync.Mutex
		wg       sync.WaitGroup
		found    = make(map[raft.ServerID]*autopilot.ServerStats, len(servers))
		failures = make(map[raft.ServerID]string)
	)
	for id, srv := range servers {
		wg.Go(func() {
			st, err := a.fetch(ctx, srv)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				// A replica whose figures cannot be read counts as unhealthy.
				found[id] = &autopilot.ServerStats{LastContact: -1}
				failures[id] = err.Error()
				return
			}
			a.noteAnswer(id)
			if st.Failure != "" {
				failures[id] = st.Failure
				st.LastContact = -1
			}
			found[id] = &autopilot.ServerStats{LastContact: st.LastContact, LastTerm: st.LastTerm, LastIndex: st.LastIndex}
		})
	}
	wg.Wait()
	a.mu.Lock()
	a.seen.failures = failures
	a.mu.Unlock()
	return found
}

func (a *autopilotState) fetch(ctx context.Context, srv *autopilot.Server) (stats, error) {
	if srv.ID == a.s.id {
		return a.s.stats()
	}
	payload, err := a.s.peers.call(ctx, string(srv.Address), opStats, nil)
	if err != nil {
		return stats{}, err
	}
	var st stats
	if err := json.Unmarshal(payload, &st); err != nil {
		return stats{}, fmt.Errorf("stats of %s: %w", srv.ID, err)
	}
	return st, nil
}

// RemoveFailedServer implements autopilot.ApplicationIntegration.
func (a *autopilotState) RemoveFailedServer(srv *autopilot.Server) {
	a.s.log.Warn("removing dead replica", "id", srv.ID, "deadFor", a.deadFor(srv.ID))
	a.s.tasks.start(func() {
		if err := a.s.raft.RemoveServer(srv.ID, 0, a.s.cfg.Timing.RPC).Error(); err != nil {
			a.s.log.Warn("remove dead replica", "id", srv.ID, "err", err)
		}
	})
}
