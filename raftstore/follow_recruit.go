package raftstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
)

// Where replicas may follow, the configuration holds the voters, and for moments the
// nonvoters that are about to vote. The leader adds a follower that should vote, which
// autopilot promotes once it keeps up, and removes a nonvoter that should not.

const (
	// sparesWanted is how many followers are kept close to the voters, to be promoted next.
	sparesWanted = 2
	// recruitUpdates is how many updates a replica that was added to vote may take to keep up
	// before another one is chosen.
	recruitUpdates = 15
	// dismissals is how many nonvoters are removed from the configuration at once.
	dismissals = 8
)

// recruits is what the leader remembers of the configuration's nonvoters.
type recruits struct {
	spares   []string                    // the followers that are promoted next, by node
	added    map[raft.ServerID]time.Time // when a nonvoter was added in order to vote
	unwanted map[raft.ServerID]time.Time // since when a nonvoter has not been wanted
	busy     bool                        // the configuration is being changed
	// checks says of each nonvoter whether its state is the leader's, nil while that is being
	// found out. doubted is until when one that could not show it, or that has resigned, is not
	// chosen.
	checks  map[raft.ServerID]*bool
	doubted map[raft.ServerID]time.Time
}

func newRecruits() recruits {
	return recruits{
		added: map[raft.ServerID]time.Time{}, unwanted: map[raft.ServerID]time.Time{},
		checks: map[raft.ServerID]*bool{}, doubted: map[raft.ServerID]time.Time{},
	}
}

// mayVote reports whether a nonvoter of the configuration has shown that its state is the
// leader's. It was fed before by a replica that may be hostile, and enough such voters would
// be a majority that signs anything. mayVote returns at once: it asks the nonvoter, and the
// next call knows.
func (a *autopilotState) mayVote(id raft.ServerID, addr raft.ServerAddress) bool {
	if !a.s.followersAllowed() {
		return true // Raft alone feeds it
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &a.recruits
	verdict, asked := r.checks[id]
	switch {
	case verdict != nil:
		return *verdict
	case asked:
		return false
	}
	r.checks[id] = nil
	checks, doubted := r.checks, r.doubted
	if !a.s.tasks.start(func() {
		err := a.s.checkState(nodeOf(id), string(addr))
		a.mu.Lock()
		defer a.mu.Unlock()
		if err != nil {
			a.s.log.Warn("a replica that should vote cannot show that its state is the group's", "id", id, "err", err)
			delete(checks, id)
			doubted[id] = time.Now().Add(recruitUpdates * a.policy.Update)
			return
		}
		yes := true
		checks[id] = &yes
	}) {
		delete(r.checks, id)
	}
	return false
}

// isDoubted reports whether a replica could not show lately that its state is the leader's, or
// has resigned.
func (a *autopilotState) isDoubted(id raft.ServerID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().Before(a.recruits.doubted[id])
}

// checkState compares the state of a replica with this one's.
func (s *Store) checkState(node, addr string) error {
	index := s.applied.get()
	own, ok := s.digests.at(index)
	if !ok {
		return fmt.Errorf("%w: the digest at log index %d is not kept any more", ErrCompacted, index)
	}
	ctx, cancel := context.WithTimeout(s.base, s.cfg.Timing.RPC)
	defer cancel()
	said, err := s.askStatement(ctx, node, addr, encodeQuestion(index))
	if err != nil {
		return fmt.Errorf("ask %s for its state at log index %d: %w", node, index, err)
	}
	if signer, err := said.signer(s.cfg.Signer); err != nil || signer != node {
		return fmt.Errorf("ask %s for its state at log index %d: signed by %q: %w", node, index, signer, errors.Join(err, ErrUnconfirmed))
	}
	if said.index != index || said.digest != own {
		return fmt.Errorf("%w: %s has the digest %s at log index %d, this leader %s", ErrDiverged, node, said.digest, said.index, own)
	}
	return nil
}

// nextVoters returns the nodes of the followers that are promoted next.
func (a *autopilotState) nextVoters() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.recruits.spares)
}

// isRecruit reports whether a nonvoter was added lately in order to vote.
func (a *autopilotState) isRecruit(id raft.ServerID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.recruits.added[id]
	return ok && time.Since(at) < recruitUpdates*a.policy.Update
}

// noteAdded notes that a nonvoter is added in order to vote. It stays in the configuration
// for a while, wanted or not.
func (a *autopilotState) noteAdded(id raft.ServerID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.recruits.added[id] = time.Now()
	delete(a.recruits.checks, id) // it was fed since
}

// noteResigned notes that a replica does not want to vote.
func (a *autopilotState) noteResigned(id raft.ServerID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.recruits.doubted[id] = time.Now().Add(resignedFor)
}

// isNew reports whether this replica has led for so short that it may not have heard of all
// followers.
func (a *autopilotState) isNew() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.s.followersAllowed() && a.awake.since(a.started) < a.s.staleFeed()
}

// followingCandidates returns the followers that may become voters, except those of nodes
// that are in the configuration. They must have been healthy for a time, as nonvoters must.
func (a *autopilotState) followingCandidates(servers map[raft.ServerID]*autopilot.ServerState, stable time.Duration) (list []candidate) {
	if !a.s.followersAllowed() {
		return nil
	}
	members := a.s.members()
	taken := map[string]bool{}
	for id := range servers {
		taken[nodeOf(id)] = true
	}
	for node, k := range a.s.followers.judge(a.silenceLimit(), a.s.raft.LastIndex()) {
		if taken[node] {
			continue
		}
		m := members[node]
		list = append(list, candidate{
			id: k.ID, zone: m.Zone, follows: true, since: k.since,
			healthy: k.healthy && !a.isDoubted(raft.ServerID(k.ID)) && (m.Alive || a.s.cfg.Members == nil) && time.Since(k.since) >= stable,
		})
	}
	return list
}

// recruit makes the configuration hold the chosen voters and, after a while, nobody else.
// It returns at once.
func (a *autopilotState) recruit(list []candidate, chosen []string) {
	if !a.s.followersAllowed() {
		return
	}
	if a.policy.ForgetAfter > 0 && a.s.cfg.Members != nil {
		a.s.followers.forgetDead(a.policy.ForgetAfter, a.s.members())
	}
	now := time.Now()
	var add, remove []raft.ServerID
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &a.recruits
	r.spares = nil
	for _, id := range pickVoters(list, len(chosen)+sparesWanted) {
		i := slices.IndexFunc(list, func(c candidate) bool { return c.id == id })
		if !slices.Contains(chosen, id) && list[i].follows {
			r.spares = append(r.spares, nodeOf(raft.ServerID(id)))
		}
	}
	for _, c := range list {
		id := raft.ServerID(c.id)
		wanted := slices.Contains(chosen, c.id)
		switch {
		case c.follows && wanted:
			add = append(add, id)
		case c.follows || c.voter || wanted || now.Sub(r.added[id]) < recruitUpdates*a.policy.Update:
			delete(r.unwanted, id)
		case r.unwanted[id].IsZero():
			r.unwanted[id] = now
		case now.Sub(r.unwanted[id]) > max(a.policy.Stabilization, 2*a.policy.Reconcile) && len(remove) < dismissals:
			remove = append(remove, id)
		}
	}
	if r.busy || len(add)+len(remove) == 0 {
		return
	}
	r.busy = a.s.tasks.start(func() { a.changeConfiguration(add, remove) })
}

// addNonvoter adds a follower to the configuration. When it returns, this leader has applied
// that: what it then asks the follower about, that was fed by nobody but Raft from there on.
func (s *Store) addNonvoter(ctx context.Context, id raft.ServerID, addr raft.ServerAddress) error {
	f := s.raft.AddNonvoter(id, addr, 0, s.cfg.Timing.RPC)
	if err := f.Error(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timing.RPC)
	defer cancel()
	return s.applied.wait(ctx, f.Index())
}

// changeConfiguration adds followers as nonvoters and removes nonvoters.
func (a *autopilotState) changeConfiguration(add, remove []raft.ServerID) {
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.recruits.busy = false
	}()
	s := a.s
	for _, id := range add {
		addr, ok := s.followers.addressOf(id)
		if !ok {
			continue
		}
		a.noteAdded(id)
		s.log.Info("a follower is to vote", "id", id, "addr", addr)
		if err := s.addNonvoter(s.base, id, raft.ServerAddress(addr)); err != nil {
			s.log.Warn("add a follower to the configuration", "id", id, "err", err)
			return
		}
		a.mayVote(id, raft.ServerAddress(addr)) // the promoter knows when it asks next
	}
	servers, err := s.servers()
	if err != nil {
		return
	}
	for _, srv := range servers {
		if srv.Suffrage == raft.Voter || !slices.Contains(remove, srv.ID) {
			continue
		}
		s.followers.keepFollower(srv.ID, string(srv.Address), a.awake.now().Add(-a.silence(srv.ID)))
		s.log.Info("a replica that does not vote follows from now on", "id", srv.ID, "addr", srv.Address)
		if err := s.raft.RemoveServer(srv.ID, 0, s.cfg.Timing.RPC).Error(); err != nil {
			s.log.Warn("remove a replica that does not vote from the configuration", "id", srv.ID, "err", err)
			return
		}
	}
}
