package raftstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// source is what a replica keeps to feed followers.
type source struct {
	mu        sync.Mutex
	slots     slots
	spares    []string // nodes that are promoted next, as the leader says
	snapshots snapshotFeeds
	// news is notified when there may be entries to send, or the feed of this replica has
	// brought word of the leader.
	news    broadcast
	members memberCache
}

func newSource(bytesPerSecond int) *source {
	return &source{slots: slots{}, snapshots: newSnapshotFeeds(bytesPerSecond)}
}

// feedBeat is how long a source lets a follower wait for entries before it answers without.
func (s *Store) feedBeat() time.Duration {
	return min(s.cfg.Timing.Heartbeat/3, s.cfg.Timing.RPC/8, time.Second)
}

// silentFeed is how long a source may owe an answer. One below the voters answers when its
// own source has.
func (s *Store) silentFeed() time.Duration { return 4 * s.feedBeat() }

// staleFeed is how long ago the leader may have been heard along a path before a follower
// looks for another one. It is longer than silentFeed, so that those below a follower that
// looks for a new source stay with it.
func (s *Store) staleFeed() time.Duration { return 3 * s.cfg.Timing.Heartbeat }

// servePull feeds a follower.
func (s *Store) servePull(ctx context.Context, from net.Conn, payload []byte) ([]byte, error) {
	q, err := decodePullRequest(payload)
	if err == nil {
		err = s.checkCaller(from, q.ID)
	}
	if err != nil {
		return nil, err
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	path := s.feedPath()
	if refusal := s.refusePull(q, path); refusal != "" {
		return (&pullAnswer{Refused: refusal}).encode()
	}
	a, ok := s.admitFollower(q, path)
	if !ok || q.Probe {
		return a.encode()
	}
	a, err = s.awaitEntries(ctx, q)
	if err != nil {
		return nil, err
	}
	if !s.isMember(nodeOf(raft.ServerID(q.ID))) {
		a = &pullAnswer{Refused: "it is no member of the mesh any more"}
	}
	s.source.touch(q.ID)
	return a.encode()
}

// feedPath returns the node IDs from this replica up to a voter, nil if it is fed by nobody
// itself.
func (s *Store) feedPath() []string {
	switch s.position() {
	case follows:
		path, heard := s.feed.pathNow()
		if len(path) == 0 || time.Since(heard) > s.silentFeed() {
			return nil
		}
		return append([]string{s.cfg.NodeID}, path...)
	case inConfiguration:
		return []string{s.cfg.NodeID}
	default:
		return nil
	}
}

// memberCache holds what Config.Members last reported, by node ID. Every pull needs it.
type memberCache struct {
	mu    sync.Mutex
	known map[string]MemberHealth
	read  time.Time
}

// recentMembers returns what Config.Members reported not longer than a beat ago.
func (s *Store) recentMembers() map[string]MemberHealth {
	c := &s.source.members
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || time.Since(c.read) > s.feedBeat() {
		c.known, c.read = s.members(), time.Now()
	}
	return c.known
}

// isMember reports whether a node is a member of the mesh.
func (s *Store) isMember(node string) bool {
	_, ok := s.recentMembers()[node]
	return ok || s.cfg.Members == nil
}

// refusePull says why this replica must not feed a follower, whether it has room or not.
func (s *Store) refusePull(q *pullRequest, path []string) string {
	node := nodeOf(raft.ServerID(q.ID))
	if !s.isMember(node) {
		return fmt.Sprintf("%s is no member of the mesh", node)
	}
	if !s.followersAllowed() {
		return "the mesh's feature level knows no followers"
	}
	if len(path) == 0 || len(path) >= maxPath {
		return fmt.Sprintf("%s has no source itself", s.cfg.NodeID)
	}
	if slices.Contains(path, node) {
		return fmt.Sprintf("%s is fed through %s", s.cfg.NodeID, node)
	}
	if servers, err := s.servers(); err != nil || slices.ContainsFunc(servers, func(srv raft.Server) bool { return string(srv.ID) == q.ID }) {
		return fmt.Sprintf("%s is in the Raft configuration", q.ID)
	}
	if age := s.lastContact(); age < 0 || age > s.staleFeed() {
		if !q.Fresh && s.source.feeds(node) {
			return "" // it judges by the age whether to look for another source
		}
		return fmt.Sprintf("%s has not heard the leader for a while", s.cfg.NodeID)
	}
	return ""
}

// admitFollower gives a follower a slot. If there is none it returns the answer that names
// others, which is also the answer to a probe.
func (s *Store) admitFollower(q *pullRequest, path []string) (*pullAnswer, bool) {
	now := time.Now()
	node := nodeOf(raft.ServerID(q.ID))
	var spares []string
	f := s.source
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slots.lapse(now.Add(-s.silentFeed()))
	if len(path) == 1 {
		spares = f.spares // a voter; the slots of others are equal
	}
	if !q.Probe && f.slots.admit(q, spares, now) {
		return nil, true
	}
	a := &pullAnswer{Offers: offersBelow(f.slots.below(s.cfg.NodeID, now), len(path)-1, q.Zone, node)}
	if !q.Probe || !f.slots.hasRoom(node, spares) {
		a.Refused = fmt.Sprintf("%s feeds %d followers already", s.cfg.NodeID, feedSlots)
	}
	return a, false
}

// touch notes that a follower was just answered.
func (f *source) touch(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o := f.slots[nodeOf(raft.ServerID(id))]; o != nil && o.id == id {
		o.heard = time.Now()
	}
}

// feeds reports whether a node has a slot.
func (f *source) feeds(node string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.slots[node] != nil
}

// count returns how many followers have a slot.
func (f *source) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.slots)
}

// awaitEntries returns the entries that a follower asks for, or word of the leader if there
// are none for a while.
func (s *Store) awaitEntries(ctx context.Context, q *pullRequest) (*pullAnswer, error) {
	began := time.Now()
	beat := s.feedBeat()
	if s.position() == follows {
		beat *= 2 // the answer of its own source comes first
	}
	timer := time.NewTimer(beat)
	defer timer.Stop()
	for {
		news := s.source.news.wait()
		if s.sendableIndex() > q.After || q.Fresh || s.feed.heardSince(began) {
			return s.answerPull(q)
		}
		select {
		case <-news:
		case <-timer.C:
			return s.answerPull(q)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// committedIndex returns an index up to which the local log is certainly committed.
func (s *Store) committedIndex() uint64 {
	return max(s.raft.CommitIndex(), s.applied.get(), s.disk.installedIndex())
}

// sendableIndex returns an index up to which what the local log holds is certainly
// committed. The state may be further on: Raft restores a snapshot of the leader's before it
// drops the log, and that may have entries that the leader never had.
func (s *Store) sendableIndex() uint64 {
	return max(s.raft.CommitIndex(), s.disk.replayed, s.disk.installedIndex())
}

// answerPull reads what a follower asks for from the local log.
func (s *Store) answerPull(q *pullRequest) (*pullAnswer, error) {
	end := s.sendableIndex() // first, so that Commit is never below what is sent
	a := &pullAnswer{Leader: s.feedLeader(), Commit: s.committedIndex(), Path: s.feedPath(), Spares: s.spares()}
	a.Statements, _ = s.newestStatements(q.Known)
	var err error
	if a.PrevTerm, err = s.termAt(q.After); err != nil || end <= q.After {
		return a, err
	}
	size := 0
	for i := q.After + 1; i <= end && len(a.entries) < maxPullEntries; i++ {
		l := new(raft.Log)
		if err := s.disk.logs.GetLog(i, l); errors.Is(err, raft.ErrLogNotFound) {
			if len(a.entries) == 0 {
				a.Snapshot, err = s.offerSnapshot(q.After)
				return a, err
			}
			break
		} else if err != nil {
			return nil, fmt.Errorf("read log index %d: %w", i, err)
		}
		if size += len(l.Data); size > maxPullBytes && len(a.entries) > 0 {
			break
		}
		a.entries = append(a.entries, l)
	}
	return a, nil
}

// feedLeader returns the leader and how long ago it was heard.
func (s *Store) feedLeader() feedLeader {
	if l, ok := s.feed.leaderNow(); ok && s.position() == follows {
		return l
	}
	addr, id := s.raft.LeaderWithID()
	return feedLeader{ID: string(id), Addr: string(addr), Term: s.raft.CurrentTerm(), Age: s.lastContact()}
}

// spares returns the nodes that are promoted next, as far as this replica knows.
func (s *Store) spares() []string {
	s.source.mu.Lock()
	defer s.source.mu.Unlock()
	return s.source.spares
}

// termAt returns the term of the entry at an index of the local log, zero if neither the
// log nor a snapshot has it.
func (s *Store) termAt(index uint64) (uint64, error) {
	var l raft.Log
	switch err := s.disk.logs.GetLog(index, &l); {
	case err == nil:
		return l.Term, nil
	case !errors.Is(err, raft.ErrLogNotFound):
		return 0, fmt.Errorf("read log index %d: %w", index, err)
	}
	list, err := s.disk.listSnapshots()
	if err != nil {
		return 0, err
	}
	for _, meta := range list {
		if meta.Index == index {
			return meta.Term, nil
		}
	}
	return 0, nil
}

// offerSnapshot describes the newest snapshot, whose log is longer than what a follower has.
func (s *Store) offerSnapshot(after uint64) (*snapshotOffer, error) {
	list, err := s.disk.listSnapshots()
	if err != nil {
		return nil, err
	}
	if len(list) == 0 || list[0].Index <= after {
		return nil, fmt.Errorf("%w: log index %d is in neither the log nor a snapshot", errNotLeader, after+1)
	}
	meta := list[0]
	return &snapshotOffer{
		Name: meta.ID, Index: meta.Index, Term: meta.Term, Size: meta.Size,
		Servers: meta.Configuration.Servers, ConfigurationIndex: meta.ConfigurationIndex,
	}, nil
}
