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

// following makes a cluster in which replicas may follow, of which at most three vote.
func following(t testing.TB, n int, options ...raftstoretest.Option) *raftstoretest.Cluster {
	options = append([]raftstoretest.Option{raftstoretest.WithConfig(func(cfg *raftstore.Config) {
		raftstore.AllowFollowers(cfg)
		cfg.Voters.Max = 3
	})}, options...)
	c := raftstoretest.NewCluster(t, min(n, 3), options...)
	for i := 3; i < n; i++ {
		c.Add(fmt.Sprintf("host%d", i+1))
	}
	return c
}

// follower returns the name of a replica that does not vote.
func follower(t testing.TB, c *raftstoretest.Cluster) string {
	t.Helper()
	var name string
	raftstoretest.Eventually(t, func() error {
		for _, p := range c.Node(c.Leader()).Status(t.Context()).Peers {
			if p.Follower && p.Healthy {
				name = p.ID
				return nil
			}
		}
		return errors.New("nobody follows")
	})
	return name
}

func sees(t testing.TB, s *raftstore.Store, key, want string) {
	t.Helper()
	raftstoretest.Eventually(t, func() error {
		r, _, err := s.Get(t.Context(), key, raftstore.ReadOptions{Consistency: raftstore.Local})
		if err == nil && string(r.Value) != want {
			err = fmt.Errorf("%s is %q, want %q", key, r.Value, want)
		}
		return err
	})
}

// TestFollower: a replica that is in no configuration has the whole state, serves commits
// and linearizable reads, and watches without gap or repetition, over restarts of its own
// and changes of the leader.
func TestFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 4)
		name := follower(t, c)
		s := c.Node(name)
		servers := raftstore.Configuration(c.Node(c.Leader()))
		if slices.Contains(servers, name) || len(servers) != 3 {
			t.Fatalf("the configuration is %v, %s follows", servers, name)
		}
		watch, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/n/"})
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Stop()
		for i := range 30 {
			writer := c.Live()[i%len(c.Live())]
			mustCommit(t, writer, put(fmt.Sprintf("/n/%02d", i), "v"))
			if r, _, err := s.Get(t.Context(), fmt.Sprintf("/n/%02d", i), raftstore.ReadOptions{}); err != nil || string(r.Value) != "v" {
				t.Fatalf("linearizable read at a follower: %+v, %v", r, err)
			}
			if i == 10 || i == 20 {
				if err := c.Node(c.Leader()).TransferLeadership(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i := range 30 {
			ev := <-watch.Events()
			if want := fmt.Sprintf("/n/%02d", i); ev.Record.Key != want {
				t.Fatalf("watch at a follower delivers %s, want %s", ev.Record.Key, want)
			}
		}
		c.Kill(name)
		mustCommit(t, c.Node(c.Leader()), put("/while-away", "v"))
		sees(t, c.Restart(name), "/while-away", "v")
		// Elections do not concern it.
		leader := c.Leader()
		c.Kill(leader)
		mustCommit(t, c.Node(name), put("/next-leader", "v"))
	})
}

// TestFollowerGetsSnapshot: a follower that was away for longer than the log reaches, and
// a new one, get a snapshot from their source.
func TestFollowerGetsSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 4, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Limits.TrailingBytes = 1
			cfg.Limits.SegmentBytes = 8192
		}))
		name := follower(t, c)
		c.Kill(name)
		leader := c.Node(c.Leader())
		for i := range 500 {
			mustCommit(t, leader, put(fmt.Sprintf("/k/%03d", i), "0123456789012345678901234567890123456789"))
		}
		for _, s := range c.Live() {
			if err := s.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
		mustCommit(t, leader, put("/after", "v"))
		back := c.Restart(name)
		fresh := c.Add("host5")
		for _, s := range []*raftstore.Store{back, fresh} {
			sees(t, s, "/k/499", "0123456789012345678901234567890123456789")
			sees(t, s, "/after", "v")
			if !raftstore.AgreesWithVoters(s) {
				t.Error("a follower differs from the voters")
			}
		}
		// What was installed survives a restart.
		c.Kill("host5")
		again := c.Restart("host5")
		if r, _, err := again.Get(t.Context(), "/k/000", raftstore.ReadOptions{Consistency: raftstore.Local}); err != nil {
			t.Errorf("after a restart: %+v, %v", r, err)
		}
		mustCommit(t, again, put("/again", "v"))
	})
}

// TestFollowerIsPromoted: where a voter is lost, a follower takes its place, and the lost
// one follows when it is back.
func TestFollowerIsPromoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 5)
		follower(t, c)
		leader := c.Leader()
		lost := "host1"
		if lost == leader {
			lost = "host2"
		}
		c.Kill(lost)
		raftstoretest.Eventually(t, func() error {
			st := c.Node(leader).Status(t.Context())
			if len(st.Voters) != 3 || slices.Contains(st.Voters, lost) {
				return fmt.Errorf("voters are %v, %s is dead", st.Voters, lost)
			}
			if servers := raftstore.Configuration(c.Node(leader)); len(servers) != 3 {
				return fmt.Errorf("the configuration is %v", servers)
			}
			return nil
		})
		mustCommit(t, c.Node(leader), put("/k", "v"))
		back := c.Restart(lost)
		if err := back.Join(t.Context(), []string{c.Addr(leader)}); err != nil {
			t.Fatal(err)
		}
		sees(t, back, "/k", "v")
		raftstoretest.Eventually(t, func() error {
			for _, p := range c.Node(leader).Status(t.Context()).Peers {
				if p.ID == lost && p.Follower && p.Healthy {
					return nil
				}
			}
			return fmt.Errorf("%s does not follow", lost)
		})
		// It has taken over the configurations of the time when it voted, and votes again
		// when it is needed.
		for name, p := range peers(t, c) {
			if p.Follower && name != lost {
				c.Kill(name)
			}
		}
		for _, name := range c.Node(leader).Status(t.Context()).Voters {
			if name != leader {
				c.Kill(name)
				break
			}
		}
		raftstoretest.Eventually(t, func() error {
			if voters := c.Node(leader).Status(t.Context()).Voters; !slices.Contains(voters, lost) || raftstore.DoubtsVote(back) {
				return fmt.Errorf("voters are %v, %s should be one", voters, lost)
			}
			return nil
		})
	})
}

// TestFollowerLeaves: a follower that leaves is gone, and gets no feed.
func TestFollowerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 5)
		name := follower(t, c)
		s := c.Node(name)
		if err := s.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustCommit(t, c.Node(c.Leader()), put("/k", "v"))
		time.Sleep(5 * time.Second)
		if _, _, err := s.Get(t.Context(), "/k", raftstore.ReadOptions{Consistency: raftstore.Local}); !errors.Is(err, raftstore.ErrNotFound) {
			t.Errorf("a replica that has left still gets entries: %v", err)
		}
		for _, p := range c.Node(c.Leader()).Status(t.Context()).Peers {
			if p.ID == name {
				t.Errorf("a replica that has left is listed: %+v", p)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), raftstoretest.ReadyTimeout)
		defer cancel()
		if err := s.Join(ctx, []string{c.Addr(c.Leader())}); err != nil {
			t.Fatal(err)
		}
		sees(t, s, "/k", "v")
	})
}

// TestRaiseMakesNonvotersFollow: where the mesh learns that replicas may follow, those that
// do not vote leave the configuration, and nobody misses anything.
func TestRaiseMakesNonvotersFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		upgraded := false
		c := raftstoretest.NewCluster(t, 6, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.FeatureLevel = raftstore.LevelRange{Lowest: raftstore.BaseLevel, Highest: raftstore.BaseLevel}
			if upgraded {
				raftstore.AllowFollowers(cfg)
			}
		}))
		upgraded = true
		for i := range 6 {
			name := fmt.Sprintf("host%d", i+1)
			c.Kill(name)
			c.Restart(name)
			raftstoretest.WaitServing(t, c.Node(name))
		}
		for _, p := range peers(t, c) {
			if p.Follower {
				t.Fatalf("%s follows before the level allows it", p.ID)
			}
		}
		watch, err := c.Node("host6").Watch(t.Context(), raftstore.WatchRequest{Prefix: "/n/"})
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Stop()
		mustCommit(t, c.Node("host1"), put("/n/1", "v"))
		if err := c.Node("host2").RaiseFeatureLevel(t.Context(), raftstore.FollowersLevel); err != nil {
			t.Fatal(err)
		}
		mustCommit(t, c.Node("host1"), put("/n/2", "v"))
		time.Sleep(10 * time.Second) // the hosts have just been restarted
		awaitTree(t, c, 6)
		if servers := raftstore.Configuration(c.Node(c.Leader())); len(servers) != 5 {
			t.Errorf("the configuration is %v", servers)
		}
		mustCommit(t, c.Node("host6"), put("/n/3", "v"))
		for i := range 3 {
			if ev := <-watch.Events(); ev.Record.Key != fmt.Sprint("/n/", i+1) {
				t.Fatalf("the watch delivers %s, want /n/%d", ev.Record.Key, i+1)
			}
		}
		for _, s := range c.Live() {
			if !s.HearsLeader() {
				t.Errorf("%s does not hear the leader", s.Status(t.Context()).NodeID)
			}
		}
	})
}
