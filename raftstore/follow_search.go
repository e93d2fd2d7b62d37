package raftstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// lookBeats is about how many beats pass before a follower looks for a better source.
const lookBeats = 60

// leastPatience is the least time that a replica has for an answer that needs no waiting.
const leastPatience = 500 * time.Millisecond

// errRefused: a replica does not feed this one.
var errRefused = errors.New("it refuses")

// knownSources returns the voters, which a search for a source begins with.
func (s *Store) knownSources() []offer {
	members := s.recentMembers()
	s.feed.mu.Lock()
	known := slices.Clone(s.feed.known)
	s.feed.mu.Unlock()
	servers, err := s.servers()
	if err != nil {
		return known
	}
	var list []offer
	for _, srv := range servers {
		if srv.Suffrage != raft.Voter || srv.ID == s.id {
			continue
		}
		m := members[nodeOf(srv.ID)]
		o := offer{Node: nodeOf(srv.ID), Addr: string(srv.Address), Zone: m.Zone, Room: 1}
		if m.Addr != "" {
			o.Addr = m.Addr
		}
		if !m.Alive && s.cfg.Members != nil {
			o.Room = 0 // asked last: it may be wrong
		}
		list = append(list, o)
	}
	// What the leader said in its answer to a join is newer than an old log, but after
	// that the log is newer.
	return append(list, slices.DeleteFunc(known, func(o offer) bool {
		return o.Node == s.cfg.NodeID || slices.ContainsFunc(list, func(l offer) bool { return l.Node == o.Node })
	})...)
}

// zone returns the zone of this host.
func (s *Store) zone() string { return s.recentMembers()[s.cfg.NodeID].Zone }

// findSource asks one replica after the other to feed this one, and returns the first that
// does. except is not asked.
func (s *Store) findSource(ctx context.Context, known []offer, except string) (offer, error) {
	tried := newSearch(s.cfg.NodeID, s.zone(), known)
	tried.asked[except] = true
	var errs []error
	for range maxPath {
		o, ok := tried.next()
		if !ok || ctx.Err() != nil {
			break
		}
		a, err := s.pull(ctx, o, true)
		switch {
		case err == nil:
			err = s.takeAnswer(ctx, o, a)
		case errors.Is(err, errRefused):
			tried.add(a.Offers)
		}
		if err == nil {
			o.Depth = len(a.Path) - 1
			return o, nil
		}
		s.hangUp(o.Addr)
		errs = append(errs, err)
	}
	return offer{}, errors.Join(errs...)
}

// hangUp ends the connections to a replica that this one has no more questions for. All
// hosts ask the same few while they join or look for a source, which would otherwise hold
// their connections for idleLimit. Those to the leader stay, for the next write.
func (s *Store) hangUp(addr string) {
	if leader := s.leader(); addr != leader.addr {
		s.peers.closeUnused(addr)
	}
}

// nextLook returns when a follower looks for a better source.
func (s *Store) nextLook() time.Time {
	every := lookBeats * s.feedBeat()
	return time.Now().Add(every/2 + rand.N(every))
}

// lookAround returns a better source than src, which has answered a, if there is one: any
// other that hears the leader if src does not, a voter if this replica is a spare, and
// otherwise one that is nearer.
func (s *Store) lookAround(ctx context.Context, src offer, a *pullAnswer, stale bool) (offer, bool) {
	voters := s.knownSources()
	switch {
	case stale:
		next, err := s.findSource(ctx, voters, src.Node)
		return next, err == nil
	case src.Depth > 0 && slices.Contains(a.Spares, s.cfg.NodeID):
		return s.moveTo(ctx, voters)
	case len(voters) == 0:
		return offer{}, false
	}
	zone := s.zone()
	near := slices.DeleteFunc(slices.Clone(voters), func(o offer) bool { return o.Zone != zone })
	if src.Zone != zone && len(near) > 0 {
		voters = near
	}
	asked := voters[rand.IntN(len(voters))]
	q := pullRequest{ID: string(s.id), Addr: s.cfg.Addr, Zone: zone, After: s.committedIndex(), Probe: true}
	found, err := s.askSource(ctx, asked, &q)
	if asked.Node != src.Node {
		s.hangUp(asked.Addr)
	}
	if err != nil {
		return offer{}, false
	}
	better := found.Offers
	if found.Refused == "" {
		better = append(better, asked)
	}
	better = slices.DeleteFunc(better, func(o offer) bool {
		return o.Room == 0 || o.Node == src.Node || o.Node == s.cfg.NodeID || !isBetter(o, src, zone)
	})
	sortOffers(better, zone, s.cfg.NodeID)
	return s.moveTo(ctx, better[:min(len(better), 2)])
}

// moveTo asks the given replicas only to feed this one.
func (s *Store) moveTo(ctx context.Context, list []offer) (offer, bool) {
	for _, o := range list {
		a, err := s.pull(ctx, o, true)
		if err == nil && s.takeAnswer(ctx, o, a) == nil {
			o.Depth = len(a.Path) - 1
			return o, true
		}
		s.hangUp(o.Addr)
	}
	return offer{}, false
}

// minTime returns the earlier of two times.
func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
