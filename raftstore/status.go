package raftstore

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"time"

	"github.com/hashicorp/raft"
)

// Status describes a replica and the group as the leader sees it.
type Status struct {
	NodeID string
	Addr   string
	// Role is leader, follower, candidate or shutdown.
	Role   string
	Leader string
	Term   uint64
	// LastIndex is the last index of the local log. CommitIndex is the index up to
	// which the log is known to be committed, AppliedIndex the one up to which it is
	// applied to the local state.
	LastIndex    uint64
	CommitIndex  uint64
	AppliedIndex uint64
	Revision     uint64
	Keys         int
	Bytes        int64
	// LastContact is how long ago this replica heard from the leader: zero on the
	// leader, negative if it never did.
	LastContact time.Duration
	// Compacted is the earliest revision that watches and lists can begin at.
	Compacted uint64
	// FeatureLevel is that of the group, as this replica has applied it.
	FeatureLevel uint32
	// Failure says why the replica halted, why its log cannot be written, or why its
	// version is too old.
	Failure string
	// Voters are the node IDs of the voters, in the latest configuration that this
	// replica knows.
	Voters []string
	// Peers describes every replica; nil if no leader answered.
	Peers []PeerStatus
}

// PeerStatus is a replica as the leader sees it.
type PeerStatus struct {
	ID     string
	Addr   string
	Zone   string
	Voter  bool
	Leader bool
	// Follower says that the replica is outside the Raft configuration and is fed by the
	// node Source.
	Follower bool
	Source   string
	// Alive says whether Config.Members reports the host alive. Healthy says whether
	// the replica also keeps up with the leader; once it has been healthy for long
	// enough, it may become a voter. StableSince is when Healthy last changed.
	Alive       bool
	Healthy     bool
	StableSince time.Time
	LastIndex   uint64
	// Lag is how many log entries the replica is behind.
	Lag         uint64
	LastContact time.Duration
	// Silence is for how long the host has not answered the leader, see Silences.
	Silence time.Duration
	// Heard says that this leader has heard the host since it leads. If not, Silence counts
	// from then, and says nothing yet of whether the host runs.
	Heard   bool
	Failure string
}

// Status reports on this replica, and on the others if the leader answers before ctx
// ends. It never fails: unknown values are left out.
func (s *Store) Status(ctx context.Context) Status {
	now := s.history.current()
	st := Status{
		NodeID: s.cfg.NodeID, Addr: s.cfg.Addr,
		Role: roleName(s.raft.State()), Term: s.raft.CurrentTerm(),
		LastIndex: s.raft.LastIndex(), CommitIndex: s.raft.CommitIndex(), AppliedIndex: s.applied.get(),
		Revision: now.revision, Keys: now.tree.Len(), Bytes: now.bytes,
		LastContact: s.lastContact(), Compacted: s.history.stats().compacted,
		FeatureLevel: s.FeatureLevel(), Failure: s.failureText(),
	}
	st.Leader, _ = s.Leader()
	st.Voters = s.Voters()
	if payload, err := s.tryAtLeader(ctx, opStatus, nil); err == nil {
		if err := json.Unmarshal(payload, &st.Peers); err != nil {
			s.log.Warn("could not decode the status of the group", "err", err)
		}
	}
	return st
}

// Voters returns the node IDs of the voters, sorted, as this replica's newest configuration
// has them. It does not block.
func (s *Store) Voters() (voters []string) {
	servers, err := s.servers()
	if err != nil {
		return nil // raft has stopped
	}
	for _, srv := range servers {
		if srv.Suffrage == raft.Voter {
			voters = append(voters, nodeOf(srv.ID))
		}
	}
	sort.Strings(voters)
	return voters
}

func roleName(r raft.RaftState) string {
	switch r {
	case raft.Leader:
		return "leader"
	case raft.Follower:
		return "follower"
	case raft.Candidate:
		return "candidate"
	default:
		return "shutdown"
	}
}

// lastContact returns how long ago this replica heard from the leader: zero on the
// leader, unless its disk hangs, and -1 if it never did.
func (s *Store) lastContact() time.Duration {
	if s.IsLeader() {
		return s.hungFor()
	}
	t := s.raft.LastContact()
	if _, heard := s.feed.pathNow(); s.position() == follows && t.Before(heard.Add(s.feedBeat())) {
		// It was the feed that spoke to Raft.
		l, _ := s.feed.leaderNow()
		return l.Age
	}
	if t.IsZero() {
		return -1
	}
	return time.Since(t)
}

func (s *Store) failureText() string {
	if err := s.Err(); err != nil {
		return err.Error()
	}
	for _, err := range []error{s.disk.logs.err(), s.diskHangs(), s.versionTooOld(), s.votersGone()} {
		if err != nil {
			return err.Error()
		}
	}
	return ""
}

// stats are the figures that the leader reads from every replica.
type stats struct {
	LastIndex   uint64        `json:"lastIndex"`
	LastTerm    uint64        `json:"lastTerm"`
	Applied     uint64        `json:"applied"`
	LastContact time.Duration `json:"lastContact"`
	Failure     string        `json:"failure,omitempty"`
	Host        string        `json:"host"`
	Version     string        `json:"version"`
	Levels      LevelRange    `json:"levels"`
}

// stats returns the figures that the leader reads from this replica.
func (s *Store) stats() (stats, error) {
	term, err := strconv.ParseUint(s.raft.Stats()["last_log_term"], 10, 64)
	if err != nil {
		return stats{}, fmt.Errorf("read last log term: %w", err)
	}
	return stats{
		LastIndex: s.raft.LastIndex(), LastTerm: term, Applied: s.applied.get(),
		LastContact: s.lastContact(), Failure: s.failureText(),
		Host: s.cfg.NodeID, Version: s.cfg.Version, Levels: s.levels.known,
	}, nil
}

// peerStatus describes every replica of the group. Only the leader calls it.
func (s *Store) peerStatus() []PeerStatus {
	servers, err := s.servers()
	if err != nil {
		return nil
	}
	members := s.members()
	seen := s.autopilot.snapshot()
	last := s.raft.LastIndex()
	list := make([]PeerStatus, 0, len(servers))
	for _, srv := range servers {
		m, known := members[nodeOf(srv.ID)]
		p := PeerStatus{
			ID: nodeOf(srv.ID), Addr: string(srv.Address), Zone: m.Zone,
			Voter: srv.Suffrage == raft.Voter, Leader: srv.ID == s.id,
			Alive: known && m.Alive,
		}
		if o := seen.servers[srv.ID]; o != nil {
			p.Healthy, p.StableSince = o.Health.Healthy, o.Health.StableSince
			p.LastIndex, p.LastContact = o.Stats.LastIndex, o.Stats.LastContact
			p.Alive = p.Alive || s.cfg.Members == nil && o.Health.Healthy
		}
		p.Failure = seen.failures[srv.ID]
		if p.Leader {
			p.LastIndex, p.Alive = last, true
		} else {
			p.Silence, p.Heard = s.autopilot.silence(srv.ID), s.autopilot.hasHeard(srv.ID)
		}
		p.Lag = last - min(p.LastIndex, last)
		list = append(list, p)
	}
	if s.followersAllowed() {
		list = append(list, s.followerStatus(list, members, last)...)
	}
	return list
}

// members returns what Config.Members reports, by node ID.
func (s *Store) members() map[string]MemberHealth {
	if s.cfg.Members == nil {
		return nil
	}
	list := s.cfg.Members()
	byID := make(map[string]MemberHealth, len(list))
	for _, m := range list {
		byID[m.ID] = m
	}
	return byID
}
