package raftstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Followers report up the tree, and the voters report to the leader, who they feed and how
// far those are. So the leader is a witness of the followers' lives, shows them in Status
// and chooses spares among them, without a connection to each.

// followers are the followers that the leader has heard of, by node.
type followers struct {
	awake *awakeClock // of began, left and when each was heard

	mu    sync.Mutex
	began time.Time // since when this replica has collected reports
	known map[string]*knownFollower
	// left holds the nodes that were removed, and until when older reports may name them.
	left map[string]time.Time
}

type knownFollower struct {
	reportLine
	heard   time.Time
	healthy bool
	since   time.Time // when healthy last changed
}

func newFollowers(awake *awakeClock) *followers {
	return &followers{awake: awake, known: map[string]*knownFollower{}, left: map[string]time.Time{}}
}

// reset forgets everything, as a new leader does.
func (f *followers) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.known)
	clear(f.left)
	f.began = f.awake.now()
}

// takeReport takes a report. Of two lines on a node, the younger one counts.
func (f *followers) takeReport(report []reportLine, isMember func(node string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.awake.now()
	for _, line := range report {
		node := nodeOf(raft.ServerID(line.ID))
		if node == "" || line.Addr == "" || line.Age < 0 || !isMember(node) {
			continue
		}
		heard := now.Add(-line.Age)
		if !heard.After(f.left[node]) {
			continue
		}
		k := f.known[node]
		if k == nil {
			k = &knownFollower{since: time.Now()}
			f.known[node] = k
		}
		if heard.After(k.heard) {
			k.reportLine, k.heard = line, heard
		}
	}
}

// keepFollower keeps a replica that leaves the configuration, and when it was last heard.
func (f *followers) keepFollower(id raft.ServerID, addr string, heard time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	node := nodeOf(id)
	delete(f.left, node)
	if k := f.known[node]; k == nil || k.ID != string(id) {
		f.known[node] = &knownFollower{reportLine: reportLine{ID: string(id), Addr: addr}, heard: heard, since: time.Now()}
	}
}

// forgetNode drops a node. Reports of it that are on their way do not count.
func (f *followers) forgetNode(node string, onTheirWay time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.known, node)
	f.left[node] = f.awake.now().Add(onTheirWay)
}

// forgetDead drops the nodes that have been silent for a time and are not alive.
func (f *followers) forgetDead(after time.Duration, members map[string]MemberHealth) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for node, k := range f.known {
		if !members[node].Alive && f.awake.since(k.heard) > after {
			delete(f.known, node)
		}
	}
}

// addressOf returns the address of a follower.
func (f *followers) addressOf(id raft.ServerID) (string, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.known[nodeOf(id)]
	if k == nil || k.ID != string(id) {
		return "", false
	}
	return k.Addr, true
}

// judge notes who is healthy: whoever was heard within a limit and is not far behind an
// index. It returns copies, by node.
func (f *followers) judge(limit time.Duration, last uint64) map[string]knownFollower {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.awake.now()
	all := make(map[string]knownFollower, len(f.known))
	for node, k := range f.known {
		healthy := k.Failure == "" && now.Sub(k.heard) < limit && k.Applied+maxTrailingLogs >= last
		if healthy != k.healthy {
			k.healthy, k.since = healthy, time.Now()
		}
		all[node] = *k
	}
	return all
}

// silence returns for how long a node has not been heard.
func (f *followers) silence(node string) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	since := f.began
	if k := f.known[node]; k != nil && k.heard.After(since) {
		since = k.heard
	}
	return f.awake.since(since)
}

// hasHeard reports whether word of a follower has come since this replica leads.
func (f *followers) hasHeard(node string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.known[node]
	return k != nil && k.heard.After(f.began)
}

// reportDue reports whether it is time to report, at most once in a while.
func (f *feed) reportDue(every time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.reported) < every {
		return false
	}
	f.reported = time.Now()
	return true
}

// belowNow reports on everything below a source after slots have lapsed: who has left a
// source that nobody else asks would have one for good. room is how many slots are free.
func (f *source) belowNow(self string, silent time.Duration) (below []reportLine, room int) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slots.lapse(now.Add(-silent))
	return f.slots.below(self, now), feedSlots - len(f.slots)
}

// report describes this replica, and then everything below it.
func (s *Store) report() []reportLine {
	below, room := s.source.belowNow(s.cfg.NodeID, s.silentFeed())
	own := reportLine{ID: string(s.id), Addr: s.cfg.Addr, Applied: s.applied.get(), Room: room, Failure: s.failureText()}
	return append([]reportLine{own}, below...)
}

// reportLoop passes what this replica knows of those below it to the leader, while it is in
// the configuration itself.
func (s *Store) reportLoop() {
	tick := time.NewTicker(2 * s.feedBeat())
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.failure.failed:
			return
		case <-s.closing:
			return
		}
		if !s.followersAllowed() || s.position() != inConfiguration {
			continue
		}
		if err := s.reportToLeader(); err != nil {
			s.log.Debug("the followers of this replica could not be reported", "err", err)
		}
	}
}

func (s *Store) reportToLeader() error {
	below, _ := s.source.belowNow(s.cfg.NodeID, s.silentFeed())
	payload, err := encodePull(below)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.base, s.cfg.Timing.RPC)
	defer cancel()
	answer, err := s.tryAtLeader(ctx, opReport, payload)
	if err != nil {
		return err
	}
	var spares []string
	if err := json.Unmarshal(answer, &spares); err != nil || len(spares) > maxPath {
		return fmt.Errorf("spares: %w", errors.Join(err, errDecode))
	}
	s.source.mu.Lock()
	s.source.spares = spares
	s.source.mu.Unlock()
	return nil
}

// serveReport takes a voter's report and answers with the spares.
func (s *Store) serveReport(caller string, payload []byte) ([]byte, error) {
	servers, err := s.servers()
	if err != nil {
		return nil, err
	}
	if caller != "" && !slices.ContainsFunc(servers, func(srv raft.Server) bool { return nodeOf(srv.ID) == caller }) {
		return nil, fmt.Errorf("%w: host %q, which is not in the configuration, reports on followers", ErrInvalidTxn, caller)
	}
	var lines []reportLine
	if _, err := decodePullHeader(payload, &lines); err != nil {
		return nil, err
	}
	if len(lines) > maxReport {
		return nil, fmt.Errorf("%w: report of %d lines", ErrInvalidTxn, len(lines))
	}
	s.followers.takeReport(lines, s.isMember)
	return json.Marshal(s.autopilot.nextVoters())
}

// followerStatus describes the followers that the leader has heard of.
func (s *Store) followerStatus(inConfiguration []PeerStatus, members map[string]MemberHealth, last uint64) (list []PeerStatus) {
	for node, k := range s.followers.judge(s.SilenceLimit(), last) {
		if slices.ContainsFunc(inConfiguration, func(p PeerStatus) bool { return p.ID == node }) {
			continue
		}
		m, known := members[node]
		silence := s.followers.silence(node)
		list = append(list, PeerStatus{
			ID: node, Addr: k.Addr, Zone: m.Zone, Follower: true, Source: k.Source,
			Alive: known && m.Alive || s.cfg.Members == nil && k.healthy, Healthy: k.healthy, StableSince: k.since,
			LastIndex: k.Applied, Lag: last - min(k.Applied, last), LastContact: silence, Silence: silence, Heard: s.followers.hasHeard(node), Failure: k.Failure,
		})
	}
	slices.SortFunc(list, func(a, b PeerStatus) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return list
}
