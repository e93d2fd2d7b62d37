package raftstore_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// asInProduction sets the timing that hosts have, and keeps the state in memory.
func asInProduction(cfg *raftstore.Config) {
	def := raftstore.DefaultConfig()
	cfg.Timing, cfg.Voters = def.Timing, def.Voters
	cfg.Voters.Max = 5
	cfg.DataDir = ""
}

// peers returns what the leader knows of each replica.
func peers(t testing.TB, c *raftstoretest.Cluster) map[string]raftstore.PeerStatus {
	t.Helper()
	all := map[string]raftstore.PeerStatus{}
	for _, p := range c.Node(c.Leader()).Status(t.Context()).Peers {
		all[p.ID] = p
	}
	return all
}

// awaitTree waits until the leader knows n replicas, all of which keep up and feed no more
// than they should, and returns how many each one feeds.
func awaitTree(t testing.TB, c *raftstoretest.Cluster, n int) map[string]int {
	t.Helper()
	var feeds map[string]int
	raftstoretest.Eventually(t, func() error {
		feeds = map[string]int{}
		all := peers(t, c)
		for name, p := range all {
			if p.Follower && !p.Healthy || !p.Follower && !p.Voter {
				return fmt.Errorf("%s does not keep up: %+v", name, p)
			}
			if p.Follower {
				feeds[p.Source]++
			}
		}
		if len(all) != n {
			return fmt.Errorf("the leader knows %d replicas of %d", len(all), n)
		}
		for source, fed := range feeds {
			if fed > 4 { // the leader may not have heard yet that one has moved
				return fmt.Errorf("%s feeds %d replicas", source, fed)
			}
		}
		return nil
	})
	return feeds
}

// awaitAll waits until every running replica but some has a revision, and returns how long
// that took.
func awaitAll(t testing.TB, c *raftstoretest.Cluster, revision uint64, except ...*raftstore.Store) time.Duration {
	t.Helper()
	began := time.Now()
	for _, s := range c.Live() {
		for ; s.Revision() < revision && (len(except) == 0 || s != except[0]); time.Sleep(10 * time.Millisecond) {
			if time.Since(began) > time.Minute {
				t.Fatalf("%s is at revision %d, want %d", s.Status(t.Context()).NodeID, s.Revision(), revision)
			}
		}
	}
	return time.Since(began)
}

// testMany runs n replicas: few get entries from the leader, all converge, and those whose
// source loses its power have another one within seconds.
func testMany(t *testing.T, n int) {
	c := raftstoretest.NewCluster(t, 1, raftstoretest.WithConfig(raftstore.AllowFollowers), raftstoretest.WithConfig(asInProduction))
	for i := 1; i < n; i++ {
		c.Add(fmt.Sprintf("host%d", i+1))
	}
	c.WaitVoters(5)
	feeds := awaitTree(t, c, n)
	leader := c.Node(c.Leader())
	write := func(key string) uint64 {
		t.Helper()
		return mustCommit(t, leader, raftstore.Txn{Ops: []raftstore.Op{{Key: key, Value: make([]byte, 32<<10)}}}).Revision
	}
	began := c.Net.Sent(c.Addr(c.Leader()))
	const entries = 10
	var last uint64
	for i := range entries {
		last = write(fmt.Sprint("/", i))
	}
	took := awaitAll(t, c, last)
	if took > 5*time.Second {
		t.Errorf("%d replicas got %d entries in %v", n, entries, took)
	}
	copies := float64(c.Net.Sent(c.Addr(c.Leader()))-began) / entries / (32 << 10)
	t.Logf("the leader of %d sends %.1f copies of an entry", n, copies)
	if copies > 4+4+0.5 {
		t.Errorf("the leader sends %.1f copies of each entry to %d replicas", copies, n)
	}
	var victim string
	for source, fed := range feeds {
		if fed > feeds[victim] && peers(t, c)[source].Follower {
			victim = source
		}
	}
	c.Net.Silence(c.Addr(victim))
	c.SetHealth(victim, func(m *raftstore.MemberHealth) { m.Alive = false })
	took = awaitAll(t, c, write("/after"), c.Node(victim))
	t.Logf("the %d below %s are fed again after %v", feeds[victim], victim, took)
	if took > 6*time.Second {
		t.Errorf("those that %s fed waited for %v", victim, took)
	}
	c.Net.Heal()
	awaitAll(t, c, write("/healed"))
}

func TestThirtyThreeReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { testMany(t, 33) })
}

// cluster33 is a mesh of 33 with the timing of hosts.
func cluster33(t testing.TB, options ...raftstoretest.Option) *raftstoretest.Cluster {
	options = append([]raftstoretest.Option{raftstoretest.WithConfig(raftstore.AllowFollowers), raftstoretest.WithConfig(asInProduction)}, options...)
	c := raftstoretest.NewCluster(t, 1, options...)
	for i := 1; i < 33; i++ {
		c.Add(fmt.Sprintf("host%d", i+1))
	}
	c.WaitVoters(5)
	return c
}

// TestFollowersLeaveVoterWithoutLeader: a voter that is cut off from the other voters goes on
// answering those that it feeds. They notice, and find others.
func TestFollowersLeaveVoterWithoutLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster33(t)
		awaitTree(t, c, 33)
		leader := c.Leader()
		all := peers(t, c)
		var lost string
		for name, p := range all {
			if p.Voter && name != leader {
				lost = name
			}
		}
		for name, p := range all {
			if p.Voter && name != lost {
				c.Net.Lose(c.Addr(lost), c.Addr(name), true)
				c.Net.Lose(c.Addr(name), c.Addr(lost), true)
			}
		}
		revision := mustCommit(t, c.Node(leader), put("/k", "v")).Revision
		if took := awaitAll(t, c, revision, c.Node(lost)); took > 10*time.Second {
			t.Errorf("those below %s waited for %v", lost, took)
		}
		time.Sleep(time.Minute)
		for _, s := range c.Live() {
			if !s.HearsLeader() && s != c.Node(lost) {
				t.Errorf("%s does not hear the leader", s.Status(t.Context()).NodeID)
			}
		}
	})
}

// TestSearchLeavesNoConnections: a follower that has found its place keeps the connections
// to its source and to the leader. Otherwise each voter of a large mesh would hold one to
// every host after a power failure, when all of them search.
func TestSearchLeavesNoConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster33(t)
		awaitTree(t, c, 33)
		all := 0
		for name, p := range peers(t, c) {
			if !p.Follower {
				continue
			}
			open := c.Net.Dialled(c.Addr(name))
			all += open
			if open > 3 {
				t.Errorf("%s keeps %d connections", name, open)
			}
		}
		if all < 28 {
			t.Errorf("28 followers have %d connections to their sources", all)
		}
	})
}

// TestSilencesOfFollowers: the leader knows who of those that it does not speak to runs.
func TestSilencesOfFollowers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster33(t)
		feeds := awaitTree(t, c, 33)
		var lost string
		for name, p := range peers(t, c) {
			if p.Follower && (lost == "" || feeds[name] > feeds[lost]) {
				lost = name
			}
		}
		leader := c.Node(c.Leader())
		limit := leader.SilenceLimit()
		check := func(asked *raftstore.Store) {
			t.Helper()
			all, err := asked.Silences(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(all) != 33 {
				t.Errorf("the leader knows of %d hosts", len(all))
			}
			for name, silence := range all {
				if silent := silence >= limit; silent != (name == lost) {
					t.Errorf("%s has been silent for %v, and %s has lost its power", name, silence, lost)
				}
			}
		}
		c.Net.Silence(c.Addr(lost))
		for range 12 { // nobody is taken for dead meanwhile, while the others move
			time.Sleep(5 * time.Second)
			all, err := leader.Silences(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for name, silence := range all {
				if name != lost && silence >= limit {
					t.Errorf("%s has been silent for %v, and runs", name, silence)
				}
			}
		}
		check(leader)
		if c.Node(lost).HearsLeader() {
			t.Error("a host that lost its network hears the leader")
		}
		if p := peers(t, c)[lost]; p.Healthy || p.Silence < limit {
			t.Errorf("status shows %+v", p)
		}
		if err := leader.TransferLeadership(t.Context()); err != nil {
			t.Fatal(err)
		}
		var next *raftstore.Store
		raftstoretest.Eventually(t, func() error {
			if next = c.Node(c.Leader()); next == leader {
				return fmt.Errorf("the old leader leads")
			}
			return nil
		})
		if all, err := next.Silences(t.Context()); err != nil || all[lost] > raftstoretest.ReadyTimeout/2 {
			t.Errorf("the new leader counts the time before it: %v, %v", all[lost], err)
		}
		for _, p := range next.Status(t.Context()).Peers {
			if p.ID == lost && p.Heard {
				t.Errorf("the new leader says that it has heard the one that is lost: %+v", p)
			}
		}
		time.Sleep(limit + 2*time.Second)
		check(next)
		for name, p := range peers(t, c) {
			if heard := name != lost; !p.Leader && p.Heard != heard {
				t.Errorf("the new leader has heard %s: %v, and %s has lost its power", name, p.Heard, lost)
			}
		}
	})
}

// TestSparesAreFedByVoters: those that are promoted next hang at voters.
func TestSparesAreFedByVoters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster33(t)
		awaitTree(t, c, 33)
		raftstoretest.Eventually(t, func() error {
			all, spares := peers(t, c), raftstore.Spares(c.Node(c.Leader()))
			if len(spares) != 2 {
				return fmt.Errorf("spares are %v", spares)
			}
			for _, name := range spares {
				if source := all[name].Source; !all[source].Voter {
					return fmt.Errorf("spare %s is fed by %s, which does not vote", name, source)
				}
			}
			return nil
		})
	})
}

// TestZonesFeedThemselves: a follower is fed by one of its zone where there is room.
func TestZonesFeedThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster33(t)
		for i := range 33 {
			c.SetHealth(fmt.Sprintf("host%d", i+1), func(m *raftstore.MemberHealth) { m.Zone = fmt.Sprint(i % 2) })
		}
		zone := func(name string) string {
			for _, m := range c.Members() {
				if m.ID == name {
					return m.Zone
				}
			}
			return ""
		}
		time.Sleep(3 * time.Minute) // they look around now and then
		raftstoretest.Eventually(t, func() error {
			far := 0
			for name, p := range peers(t, c) {
				if p.Follower && zone(name) != zone(p.Source) {
					far++
				}
			}
			if far > 2 {
				return fmt.Errorf("%d of 28 are fed by another zone", far)
			}
			return nil
		})
	})
}

// TestRemovedHostGetsNoFeed: who is no member of the mesh gets nothing, whatever it asks.
func TestRemovedHostGetsNoFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *raftstoretest.Cluster
		var removed atomic.Value // a name; every replica reads it
		c = following(t, 5, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			members := cfg.Members
			cfg.Members = func() (list []raftstore.MemberHealth) {
				for _, m := range members() {
					if m.ID != removed.Load() {
						list = append(list, m)
					}
				}
				return list
			}
		}))
		name := follower(t, c)
		removed.Store(name)
		if err := c.Node(c.Leader()).RemoveReplica(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		mustCommit(t, c.Node(c.Leader()), put("/secret", "v"))
		time.Sleep(time.Minute)
		if _, _, err := c.Node(name).Get(t.Context(), "/secret", raftstore.ReadOptions{Consistency: raftstore.Local}); err == nil {
			t.Error("a host that was removed still gets entries")
		}
		if p, ok := peers(t, c)[name]; ok {
			t.Errorf("a host that was removed is listed: %+v", p)
		}
	})
}
