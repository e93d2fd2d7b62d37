package raftstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A follower is a replica that is in no Raft configuration. Its Raft runs but has nothing
// to do: it knows that it has no vote. Its feed pulls committed entries from a source and
// passes them to that Raft as the messages that a leader would send, see announce.go. So
// its log, state, history, snapshots and restart are those of any replica, and its log is
// always a prefix of the leader's. To promote it, the leader adds it to the configuration.

// position says where a replica stands in its group.
type position int

const (
	outside         position = iota // it has not joined, has left or has halted
	inConfiguration                 // Raft feeds it
	follows                         // it pulls
)

// settledBeats is how many beats a follower must have been fed for it to have found its
// place.
const settledBeats = 10

// feed is what a follower knows of its source and, through it, of the leader.
type feed struct {
	mu sync.Mutex
	// told is set once the leader said that this replica follows, as of a log index. Until
	// that index is applied, the configuration in the local log is older than this word.
	told      bool
	toldIndex uint64
	known     []offer // the voters, as the leader named them

	path     []string
	leader   feedLeader
	contact  time.Time // when the leader was last heard along the path
	heard    time.Time // when the source last answered
	reported time.Time // when this replica last reported to its source

	wake chan struct{} // holds one token
}

func newFeed() *feed { return &feed{wake: make(chan struct{}, 1)} }

// noteFollows records that the leader said that this replica follows, and names the voters; or
// that a voter said so, which may say it again and again.
func (f *feed) noteFollows(index uint64, known []offer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told, f.toldIndex = true, max(f.toldIndex, index)
	if len(known) == 0 {
		return
	}
	f.known = known
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// noteVoters keeps who votes, as the leader named them.
func (f *feed) noteVoters(known []offer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(known) > 0 {
		f.known = known
	}
}

// names reports whether the leader has named a node as a voter.
func (f *feed) names(node string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.known, func(o offer) bool { return o.Node == node })
}

// toldAfter reports whether the leader said that this replica follows, as of an index that
// is not applied yet.
func (f *feed) toldAfter(applied uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.told && applied < f.toldIndex
}

func (f *feed) pathNow() ([]string, time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.path, f.heard
}

func (f *feed) heardSince(t time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.heard.After(t)
}

// leaderNow returns the leader that the feed has named, if it has named one.
func (f *feed) leaderNow() (feedLeader, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.leader
	if l.Age = -1; !f.contact.IsZero() {
		l.Age = time.Since(f.contact)
	}
	return l, !f.heard.IsZero()
}

// keepAnswer keeps what an answer says of the path and the leader.
func (f *feed) keepAnswer(a *pullAnswer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heard, f.path, f.leader = time.Now(), a.Path, a.Leader
	if contact := f.heard.Add(-a.Leader.Age); a.Leader.Age >= 0 && contact.After(f.contact) {
		f.contact = contact
	}
}

// position returns where this replica stands. The local log says it, unless the leader has
// said later that it follows.
func (s *Store) position() position {
	if s.left.Load() || s.Err() != nil {
		return outside
	}
	servers, err := s.servers()
	if err != nil {
		return outside
	}
	own := slices.IndexFunc(servers, func(srv raft.Server) bool { return srv.ID == s.id })
	switch {
	case s.IsLeader():
		return inConfiguration
	case s.feed.toldAfter(s.committedIndex()):
		return follows
	case own >= 0 && !s.doubtsOwnVote():
		return inConfiguration
	case len(servers) > 0 && s.followersAllowed():
		return follows
	default:
		return outside
	}
}

// feedLoop feeds this replica while it follows.
func (s *Store) feedLoop() {
	ctx, cancel := context.WithCancel(s.base)
	defer cancel()
	go func() {
		select {
		case <-s.failure.failed:
			cancel()
		case <-ctx.Done():
		}
	}()
	for failures := 0; ctx.Err() == nil; {
		switch {
		case s.position() != follows:
			failures = 0
			s.askWhetherToFollow(ctx)
		case s.follow(ctx):
			failures = 0
		default:
			failures++
		}
		s.pauseFeed(ctx, failures)
	}
}

// pauseFeed waits for about a beat, longer after failures, and not as long as all others.
func (s *Store) pauseFeed(ctx context.Context, failures int) {
	pause := s.feedBeat() << min(failures, 3)
	timer := time.NewTimer(pause/2 + rand.N(pause))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.feed.wake:
	case <-ctx.Done():
	}
}

// askWhetherToFollow asks the voters of the local log whether this replica is still in the
// configuration, if the log says that it is there without a vote, and nobody feeds it.
func (s *Store) askWhetherToFollow(ctx context.Context) {
	servers, err := s.servers()
	if age := s.lastContact(); err != nil || age >= 0 && age < s.silentFeed() || !s.followersAllowed() {
		return
	}
	if !slices.ContainsFunc(servers, func(srv raft.Server) bool { return srv.ID == s.id && srv.Suffrage != raft.Voter }) {
		return
	}
	for _, voter := range s.knownSources() {
		a, err := s.pull(ctx, voter, true)
		s.hangUp(voter.Addr)
		if err == nil {
			s.feed.noteFollows(a.Commit, nil)
			return
		}
	}
}

// follow looks for a source and pulls from it until it needs another one. It returns false
// if it found none, or none that feeds it for a while.
func (s *Store) follow(ctx context.Context) bool {
	began := time.Now()
	src, err := s.findSource(ctx, s.knownSources(), "")
	if err != nil {
		s.log.Debug("no source feeds this replica yet", "err", err)
		return false
	}
	for src.Node != "" {
		s.log.Info("following", "source", src.Node, "depth", src.Depth)
		taken := time.Now()
		next, err := s.pullFrom(ctx, src)
		if err != nil && ctx.Err() == nil {
			s.log.Info("this replica needs another source", "source", src.Node, "err", err)
			if time.Since(taken) < s.feedBeat() {
				s.hangUp(src.Addr)
				return false // two that do so would take turns without a pause
			}
			next, err = s.findSource(ctx, s.knownSources(), src.Node)
			if err != nil {
				s.log.Debug("no source feeds this replica yet", "err", err)
			}
		}
		s.hangUp(src.Addr)
		src = next
	}
	return time.Since(began) > settledBeats*s.feedBeat()
}

// pull asks a source once. With errRefused it returns the answer too, which names others.
func (s *Store) pull(ctx context.Context, src offer, fresh bool) (*pullAnswer, error) {
	q := pullRequest{ID: string(s.id), Addr: s.cfg.Addr, Zone: s.zone(), After: s.committedIndex(), Fresh: fresh, Known: s.statementsKnown()}
	if fresh || s.feed.reportDue(s.feedBeat()) {
		q.Report = s.report()
	}
	a, err := s.askSource(ctx, src, &q)
	if err != nil {
		return nil, err
	}
	if a.Refused != "" {
		return a, fmt.Errorf("%s: %w: %s", src.Node, errRefused, a.Refused)
	}
	return a, nil
}

// askSource sends a pull and reads the answer.
func (s *Store) askSource(ctx context.Context, src offer, q *pullRequest) (*pullAnswer, error) {
	payload, err := encodePull(q)
	if err != nil {
		return nil, err
	}
	patience := s.silentFeed()
	if q.Fresh || q.Probe { // which are answered at once
		patience = max(patience/2, leastPatience)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSilent)
	defer cancel()
	answer, err := s.peers.call(ctx, src.Addr, opPull, payload)
	if err != nil {
		return nil, fmt.Errorf("pull from %s: %w", src.Node, err)
	}
	a, err := decodePullAnswer(answer, q.After)
	if err != nil {
		return nil, fmt.Errorf("pull from %s: %w", src.Node, err)
	}
	if slices.Contains(a.Path, s.cfg.NodeID) {
		return nil, fmt.Errorf("pull from %s: it is fed through this replica", src.Node)
	}
	return a, nil
}

// pullFrom pulls from a source. It returns the source to go on with: none if this replica
// no longer follows, or another one that is better.
func (s *Store) pullFrom(ctx context.Context, src offer) (offer, error) {
	look, stales := s.nextLook(), 0
	for s.position() == follows && ctx.Err() == nil {
		a, err := s.pull(ctx, src, false)
		if err != nil {
			return offer{}, err
		}
		src.Depth = len(a.Path) - 1
		if err := s.takeAnswer(ctx, src, a); err != nil {
			return offer{}, err
		}
		if src.Depth > 0 && slices.Contains(a.Spares, s.cfg.NodeID) {
			look = minTime(look, time.Now().Add(rand.N(lookBeats/4*s.feedBeat())))
		}
		age := s.lastContact()
		stale := age < 0 || age > s.staleFeed()
		if !stale {
			stales = 0
		}
		if now := time.Now(); stale && stales == 0 || now.After(look) {
			if look = s.nextLook(); stale {
				// While nobody leads, nobody is better.
				look = minTime(look, now.Add(rand.N(s.feedBeat()<<min(stales, 5))))
				stales++
			}
			if next, ok := s.lookAround(ctx, src, a, stale); ok {
				return next, nil
			}
		}
	}
	return offer{}, nil
}

// takeAnswer passes what a source has answered to the local Raft.
func (s *Store) takeAnswer(ctx context.Context, src offer, a *pullAnswer) error {
	if len(a.Path) == 0 {
		return fmt.Errorf("%s does not say who feeds it: %w", src.Node, errDecode)
	}
	if s.position() != follows {
		return fmt.Errorf("%w: this replica does not follow any more", errNotTaken)
	}
	var err error
	if a.Snapshot != nil {
		err = s.installFedSnapshot(ctx, src, a.Snapshot, a.Statements)
	} else {
		err = s.passEntries(src.Node, a)
	}
	if err != nil {
		return err
	}
	s.feed.keepAnswer(a)
	s.source.news.notify()
	if len(a.Statements) > 0 {
		s.putStatements(a.Statements)
	}
	if _, leader := s.raft.LeaderWithID(); leader == "" && len(a.entries) > 0 {
		// Who votes, and so who can lead, was in these entries.
		return s.passEntries(src.Node, &pullAnswer{Leader: a.Leader})
	}
	return nil
}
