package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// TestReplicaThatAnswersIsNotForgotten: gossip may be split for hours while Raft is
// well. What gossip takes for dead must stay in the group, and what is dead to both must
// not.
func TestReplicaThatAnswersIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 5, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Voters.ForgetAfter = time.Second
		}))
		for _, id := range []string{"host4", "host5"} {
			c.SetHealth(id, func(m *raftstore.MemberHealth) { m.Alive = false })
		}
		time.Sleep(20 * time.Second)
		replicas := func() (ids []string) {
			for _, p := range c.Node(c.Leader()).Status(t.Context()).Peers {
				ids = append(ids, p.ID)
			}
			slices.Sort(ids)
			return ids
		}
		if got := replicas(); len(got) != 5 {
			t.Errorf("replicas that keep up were removed: %v are left", got)
		}
		if voters := c.Node(c.Leader()).Status(t.Context()).Voters; len(voters) != 5 {
			t.Errorf("replicas that keep up do not vote any more: %v do", voters)
		}
		c.Kill("host5")
		c.SetHealth("host4", func(m *raftstore.MemberHealth) { m.Alive = true })
		time.Sleep(20 * time.Second)
		if got := replicas(); !slices.Equal(got, []string{"host1", "host2", "host3", "host4"}) {
			t.Errorf("host5 is dead to both witnesses; the replicas are %v", got)
		}
	})
}

// TestSilences: the leader knows who answers it, whoever asks, and a new leader does
// not take the silence before its time for a death.
func TestSilences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		ask := func(s *raftstore.Store) map[string]time.Duration {
			ctx, cancel := context.WithTimeout(t.Context(), raftstoretest.ReadyTimeout)
			defer cancel()
			all, err := s.Silences(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return all
		}
		limit := c.Live()[0].SilenceLimit()
		time.Sleep(time.Minute)
		for _, s := range c.Live() {
			for host, silence := range ask(s) {
				if silence >= limit {
					t.Errorf("%s has been silent for %v, and runs", host, silence)
				}
			}
		}
		lost := "host3"
		if c.Leader() == lost {
			lost = "host2"
		}
		c.Net.Silence(c.Addr(lost))
		c.SetHealth(lost, func(m *raftstore.MemberHealth) { m.Alive = true }) // as gossip may think
		time.Sleep(time.Minute)
		leader := c.Node(c.Leader())
		if all := ask(leader); all[lost] < time.Minute/2 || len(all) != 3 {
			t.Errorf("after a minute of silence: %v", all)
		}
		for _, p := range leader.Status(t.Context()).Peers {
			if silent := p.Silence >= limit; silent != (p.ID == lost) {
				t.Errorf("status shows %s silent for %v", p.ID, p.Silence)
			}
		}
		for _, s := range c.Live() {
			if hears := s.HearsLeader(); hears != (s != c.Node(lost)) {
				t.Errorf("%s hears the leader: %v", s.Status(t.Context()).NodeID, hears)
			}
		}
		if err := leader.TransferLeadership(t.Context()); err != nil {
			t.Fatal(err)
		}
		raftstoretest.Eventually(t, func() error {
			if leader.IsLeader() || c.Leader() == lost {
				return errors.New("no other leader yet")
			}
			if all := ask(c.Node(c.Leader())); all[lost] > raftstoretest.ReadyTimeout {
				return fmt.Errorf("the new leader counts the time before it: %v", all)
			}
			return nil
		})
	})
}
