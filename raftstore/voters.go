package raftstore

import (
	"slices"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
)

// candidate is a replica that may become or stay a voter.
type candidate struct {
	id      string
	zone    string
	voter   bool // votes now
	leader  bool
	follows bool      // it is not in the configuration
	barred  bool      // it may not vote
	healthy bool      // it is alive and keeps up; a nonvoter must also have done so for long enough
	since   time.Time // stable since then
}

// wantVoters returns how many of n replicas should vote: at most limit, and an odd
// number, because one more voter would not survive more failures.
func wantVoters(n, limit int) int {
	n = min(n, limit)
	if n%2 == 0 {
		n--
	}
	return max(n, 1)
}

// chooseVoters returns the IDs of the replicas that should vote. It fills the places
// one by one. Each place goes to the zone with the fewest voters so far; within the
// zone it goes to a replica that votes already, or else to the one that has been
// stable for longest. The leader is chosen first, so that leadership never moves
// because of this choice, unless it may not vote. An unhealthy voter loses its place only to a
// healthy replica, so failures never reduce the number of voters.
//
// A replica that may not vote is not chosen anew. One that votes keeps its place as long as no
// other can take it, and as long as the healthy ones would be no majority without it: a limit
// takes effect late, and never costs the quorum.
func chooseVoters(list []candidate, l VoterLimit, limit int) []string {
	return pickVoters(list, l.voters(list, limit))
}

// pickVoters is chooseVoters for a number of voters.
func pickVoters(list []candidate, want int) []string {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b candidate) int {
		switch {
		case a.leader != b.leader:
			return order(a.leader)
		case a.healthy != b.healthy:
			return order(a.healthy)
		case a.voter != b.voter:
			return order(a.voter)
		case a.follows != b.follows:
			return order(b.follows)
		case !a.since.Equal(b.since):
			return a.since.Compare(b.since)
		case a.id < b.id:
			return -1
		default:
			return 1
		}
	})
	p := places{zones: make(map[string]int)}
	well := func(c candidate) bool { return c.healthy || c.leader }
	p.fill(list, want, func(c candidate) bool { return !c.barred && well(c) })
	p.fill(list, want/2+1, func(c candidate) bool { return c.barred && c.voter && well(c) })
	p.fill(list, want, func(c candidate) bool { return !c.barred && c.voter && !well(c) })
	p.fill(list, want, func(c candidate) bool { return c.barred && c.voter })
	slices.Sort(p.chosen)
	return p.chosen
}

// places are the places of voters that have been filled.
type places struct {
	chosen []string
	zones  map[string]int
}

// fill fills places with those of list that may have one, until want are filled.
func (p *places) fill(list []candidate, want int, may func(candidate) bool) {
	var pool []candidate
	for _, c := range list {
		if may(c) && !slices.Contains(p.chosen, c.id) {
			pool = append(pool, c)
		}
	}
	for len(p.chosen) < want && len(pool) > 0 {
		best := 0
		for i, c := range pool {
			if !pool[best].leader && p.zones[c.zone] < p.zones[pool[best].zone] {
				best = i
			}
		}
		p.zones[pool[best].zone]++
		p.chosen = append(p.chosen, pool[best].id)
		pool = slices.Delete(pool, best, best+1)
	}
}

// order returns -1 if first is true and 1 otherwise, for use in comparisons.
func order(first bool) int {
	if first {
		return -1
	}
	return 1
}

// promoter tells autopilot which replicas should vote.
type promoter struct{ a *autopilotState }

var _ autopilot.Promoter = promoter{}

// CalculatePromotionsAndDemotions implements autopilot.Promoter.
func (p promoter) CalculatePromotionsAndDemotions(c *autopilot.Config, s *autopilot.State) autopilot.RaftChanges {
	stable := s.ServerStabilizationTime(c)
	now, limit := time.Now(), p.a.s.voterLimit()
	list := make([]candidate, 0, len(s.Servers))
	for id, srv := range s.Servers {
		voter := srv.HasVotingRights()
		list = append(list, candidate{
			id: string(id), zone: srv.Server.Meta["zone"], voter: voter, leader: id == s.Leader,
			healthy: (srv.Health.Healthy && (voter || srv.Health.IsStable(now, stable)) || !voter && p.a.isRecruit(id)) && !p.a.isDoubted(id),
			since:   srv.Health.StableSince,
		})
	}
	list = append(list, p.a.followingCandidates(s.Servers, stable)...)
	for i, c := range list {
		list[i].barred = !limit.Allows(nodeOf(raft.ServerID(c.id)))
	}
	chosen := chooseVoters(list, limit, p.a.policy.Max)
	p.a.recruit(list, chosen)
	var changes autopilot.RaftChanges
	voters := 0 // of the chosen ones
	for id, srv := range s.Servers {
		want := slices.Contains(chosen, string(id))
		switch {
		case want && srv.HasVotingRights():
			voters++
		case want && srv.Health.Healthy && p.a.mayVote(id, srv.Server.Address):
			changes.Promotions = append(changes.Promotions, id)
		case !want && srv.HasVotingRights():
			changes.Demotions = append(changes.Demotions, id)
		}
	}
	if voters+len(changes.Promotions) < len(chosen) || p.a.isNew() {
		// A voter keeps its vote until the one that takes its place can vote, and until the
		// leader can know the followers.
		changes.Demotions = nil
	} else {
		passOn(&changes, s, chosen)
	}
	if p.a.held.Load() > 0 {
		return autopilot.RaftChanges{}
	}
	slices.Sort(changes.Promotions)
	slices.Sort(changes.Demotions)
	return changes
}

// FilterFailedServerRemovals implements autopilot.Promoter. It lets autopilot remove
// only replicas that have been dead for VoterPolicy.ForgetAfter.
func (p promoter) FilterFailedServerRemovals(_ *autopilot.Config, _ *autopilot.State, f *autopilot.FailedServers) *autopilot.FailedServers {
	long := func(list []*autopilot.Server) (out []*autopilot.Server) {
		for _, srv := range list {
			if p.a.deadFor(srv.ID) >= p.a.policy.ForgetAfter {
				out = append(out, srv)
			}
		}
		return out
	}
	return &autopilot.FailedServers{FailedNonVoters: long(f.FailedNonVoters), FailedVoters: long(f.FailedVoters)}
}

// GetServerExt implements autopilot.Promoter.
func (promoter) GetServerExt(*autopilot.Config, *autopilot.ServerState) any { return nil }

// GetStateExt implements autopilot.Promoter.
func (promoter) GetStateExt(*autopilot.Config, *autopilot.State) any { return nil }

// GetNodeTypes implements autopilot.Promoter.
func (promoter) GetNodeTypes(_ *autopilot.Config, s *autopilot.State) map[raft.ServerID]autopilot.NodeType {
	types := make(map[raft.ServerID]autopilot.NodeType, len(s.Servers))
	for id := range s.Servers {
		types[id] = autopilot.NodeVoter
	}
	return types
}

// IsPotentialVoter implements autopilot.Promoter.
func (promoter) IsPotentialVoter(autopilot.NodeType) bool { return true }
