package raftstore

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// silentUpdates is the number of updates in a row that a replica must leave unanswered
// before the leader is a witness of its death.
const silentUpdates = 5

// silenceLimit returns how long a replica must be silent before the leader is a witness
// of its death. It is also long enough for the report of a follower whose source was lost.
func (a *autopilotState) silenceLimit() time.Duration {
	return max(silentUpdates*a.policy.Update, 2*a.s.silentFeed())
}

// noteAnswer records that a replica has answered.
func (a *autopilotState) noteAnswer(id raft.ServerID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard[id] = a.awake.now()
}

// isRunning reports whether this replica leads and asks the others.
func (a *autopilotState) isRunning() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running != nil
}

// silence returns for how long this leader has asked a replica in vain. Time in which it
// stood still itself does not count.
func (a *autopilotState) silence(id raft.ServerID) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	since := a.started
	if heard := a.heard[id]; heard.After(since) {
		since = heard
	}
	return a.awake.since(since)
}

// hasHeard reports whether a replica has answered this leader.
func (a *autopilotState) hasHeard(id raft.ServerID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.heard[id].After(a.started)
}

// silences returns the silence of the host of every replica. Only the leader calls it.
func (s *Store) silences() (map[string]time.Duration, error) {
	if !s.autopilot.isRunning() {
		// From an earlier reign it would know silences that may have ended.
		return nil, fmt.Errorf("%w: it does not ask the others yet", errNotLeader)
	}
	servers, err := s.servers()
	if err != nil {
		return nil, leaderError(err)
	}
	all := make(map[string]time.Duration, len(servers))
	for _, srv := range servers {
		silence := time.Duration(0)
		if srv.ID != s.id {
			silence = s.autopilot.silence(srv.ID)
		}
		all[nodeOf(srv.ID)] = silence
	}
	if !s.followersAllowed() {
		return all, nil
	}
	for node := range s.members() {
		if _, ok := all[node]; !ok {
			all[node] = s.followers.silence(node)
		}
	}
	return all, nil
}

// Silences returns for how long each host has left the leader's questions unanswered,
// by node ID. It is a witness of death that does not depend on Config.Members: a host
// whose silence is shorter than SilenceLimit runs. A new leader counts from the moment
// it began to lead, and none counts time in which it stood still itself. Hosts without a replica are not in the map, or have been
// silent for as long as the leader leads. Silences asks the
// leader, and retries until ctx ends.
func (s *Store) Silences(ctx context.Context) (map[string]time.Duration, error) {
	answer, err := s.requestAtLeader(ctx, opSilences, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the leader which hosts answer it: %w", err)
	}
	var all map[string]time.Duration
	if err := json.Unmarshal(answer, &all); err != nil {
		return nil, fmt.Errorf("ask the leader which hosts answer it: %w", err)
	}
	return all, nil
}

// HearsLeader reports whether the leader's entries reach this replica: it leads, or it
// has heard from the leader within SilenceLimit. A link that is cut in one direction can
// keep a replica from hearing the leader while all others hear its host.
func (s *Store) HearsLeader() bool {
	contact := s.lastContact()
	return contact >= 0 && contact < s.SilenceLimit()
}

// LeaderSilence returns for how long this replica has not heard the leader, and whether it has
// ever heard it since it was opened. It does not block.
func (s *Store) LeaderSilence() (silence time.Duration, heard bool) {
	contact := s.lastContact()
	return contact, contact >= 0
}

// ReachesLeader reports whether this replica hears the leader and the leader answers it. A
// follower can hear the leader through the host that feeds it, and not reach it: what it
// learns it can neither confirm nor answer. It asks the leader, unless the leader has
// answered it within SilenceLimit.
func (s *Store) ReachesLeader(ctx context.Context) bool {
	if !s.HearsLeader() {
		return false
	}
	if s.position() != follows {
		return true // the leader itself has sent it something
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timing.RPC/10)
	defer cancel()
	return s.awaitFreshness(ctx, ReadOptions{Consistency: Bounded, MaxStaleness: s.SilenceLimit()}) == nil
}

// SilenceLimit returns how long a host must be silent towards the leader before that
// counts as a witness of its death.
func (s *Store) SilenceLimit() time.Duration { return s.autopilot.silenceLimit() }
