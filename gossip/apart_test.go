package gossip_test

import (
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/gossip"
	"virtmesh/gossip/gossiptest"
)

func TestOtherMeshStaysOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMesh(t, 2)
		if err := m.Add(func(_ int, c *gossip.Config) { c.Mesh = "red" }); err == nil {
			t.Error("a member of another mesh joined")
		}
	})
}

// TestMeshesStartedApartBecomeOne: two racks whose link is down are powered on, and the
// link comes up much later. Nobody remembers a member of the other rack.
func TestMeshesStartedApartBecomeOne(t *testing.T) {
	for _, apart := range []time.Duration{10 * time.Second, 20 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			network := gossiptest.NewNetwork()
			var hosts []*gossiptest.Host
			var seeds []gossip.Seed
			for i := range 6 {
				hosts = append(hosts, network.Host(gossiptest.Name(i)))
				seeds = append(seeds, gossip.Seed{Name: gossiptest.Name(i), Addr: hosts[i].Addr()})
			}
			network.Partition(1, gossiptest.Name(3), gossiptest.Name(4), gossiptest.Name(5))
			m := gossiptest.Adopt(network)
			defer m.Shutdown()
			for i, host := range hosts {
				cfg := gossip.DefaultConfig()
				cfg.Name, cfg.Transport = gossiptest.Name(i), host
				cfg.Seeds = func() []gossip.Seed { return seeds }
				g, err := gossip.New(cfg)
				if err != nil {
					t.Fatal(err)
				}
				m.Members = append(m.Members, g)
			}
			// They choose whom to call by chance: a minute is too short once in 100 times.
			if !m.Await(5*time.Minute, func(g *gossip.Gossip) bool { return g.Count(gossip.Alive) == 3 }) {
				t.Fatal("the halves did not come together:", troubles(m))
			}
			time.Sleep(apart)
			network.Partition(0, gossiptest.Name(3), gossiptest.Name(4), gossiptest.Name(5))
			if !m.AwaitAlive(3 * gossip.DefaultConfig().ReconnectMax) {
				t.Errorf("still apart after the link came up: %s", troubles(m))
			}
		})
	}
}

// TestForgottenSeedIsFoundAgain: a host that was away for longer than it is remembered,
// and that cannot reach the others itself when it starts, is found by its record.
func TestForgottenSeedIsFoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seeds []gossip.Seed
		m, err := gossiptest.Start(3, func(_ int, c *gossip.Config) {
			c.DeadRetention = time.Minute
			c.Seeds = func() []gossip.Seed { return seeds }
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Shutdown()
		for _, g := range m.Members {
			seeds = append(seeds, gossip.Seed{Name: g.Name(), Addr: g.Addr()})
		}
		away := m.Members[2].Name()
		m.Network.Partition(1, away)
		time.Sleep(10 * time.Minute)
		if p, ok := m.Members[0].Member(away); ok {
			t.Fatalf("still remembered: %+v", p)
		}
		m.Network.Partition(0, away)
		if !m.AwaitAlive(3 * gossip.DefaultConfig().ReconnectMax) {
			t.Error("not found again:", troubles(m))
		}
	})
}
