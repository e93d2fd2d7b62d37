package gossip_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"virtmesh/gossip"
	"virtmesh/gossip/gossiptest"
)

func stateOf(m *gossiptest.Mesh, name string, want gossip.State) func(*gossip.Gossip) bool {
	return func(g *gossip.Gossip) bool {
		p, ok := g.Member(name)
		return ok && p.State == want
	}
}

func TestMeshStartedAtOnceComesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := gossiptest.Start(50, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Shutdown()
		if !m.AwaitAlive(10 * time.Second) {
			t.Error("not after 10 s:", troubles(m))
		}
	})
}

func TestLeaveIsNotDeath(t *testing.T) {
	for _, members := range []int{2, 3, 40} {
		synctest.Test(t, func(t *testing.T) {
			m := startMesh(t, members)
			m.WatchFalseDeaths(func(by, of string) { t.Errorf("%s declared %s dead", by, of) })
			gone := m.Members[members/2]
			if err := gone.Leave(context.Background()); err != nil {
				t.Fatal(err)
			}
			m.Remove(gone.Name())
			if !m.Await(3*time.Second, stateOf(m, gone.Name(), gossip.Left)) {
				t.Errorf("of %d members not all know that %s left: %s", members, gone.Name(), troubles(m))
			}
			time.Sleep(10 * time.Second)
		})
	}
}

func TestLeaverComesBackWithAnotherAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMesh(t, 5)
		name := m.Members[2].Name()
		before, _ := m.Members[0].Member(name)
		if err := m.Members[2].Leave(context.Background()); err != nil {
			t.Fatal(err)
		}
		m.Remove(name)
		if !m.Await(3*time.Second, stateOf(m, name, gossip.Left)) {
			t.Fatal("the leave is not known")
		}
		if err := m.AddNamed(name, nil); err != nil {
			t.Fatal(err)
		}
		// Whoever misses the rumour learns of it by a sync.
		if !m.AwaitAlive(2 * gossip.DefaultProfile().SyncInterval) {
			t.Fatal(troubles(m))
		}
		if after, _ := m.Members[0].Member(name); after.Addr == before.Addr {
			t.Errorf("still at %s", after.Addr)
		}
	})
}

func TestDeadMemberComesBackWithAnotherAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMesh(t, 5)
		name := m.Members[2].Name()
		if _, ok := m.AwaitDeath(name, 5*time.Second); !ok {
			t.Fatal("the death is not known")
		}
		time.Sleep(5 * time.Second) // until which the name is kept for the old address
		if err := m.AddNamed(name, nil); err != nil {
			t.Fatal(err)
		}
		if !m.AwaitAlive(5 * time.Second) {
			t.Fatal(troubles(m))
		}
	})
}

func TestPartitionHeals(t *testing.T) {
	for _, cut := range []time.Duration{4 * time.Second, 10 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			m := startMesh(t, 20)
			var minority []string
			for i := range 6 {
				minority = append(minority, gossiptest.Name(i))
			}
			m.Network.Partition(1, minority...)
			if !m.Await(30*time.Second, func(g *gossip.Gossip) bool {
				dead := g.Count(gossip.Dead)
				return dead == 6 || dead == 14
			}) {
				t.Error("the halves have not given each other up:", troubles(m))
			}
			time.Sleep(cut)
			// What changes meanwhile has to arrive as well.
			f := bigFacts()
			if err := m.Member(minority[0]).SetFacts(f); err != nil {
				t.Fatal(err)
			}
			m.Network.Partition(0, minority...)
			if !m.AwaitAlive(time.Minute) {
				t.Errorf("not healed a minute after a cut of %v: %s", cut, troubles(m))
			}
			awaitFacts(t, m, minority[0], f, 2*time.Minute)
		})
	}
}

func TestDeadAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := gossiptest.StartSettled(3, func(_ int, c *gossip.Config) { c.DeadRetention = time.Minute })
		if err != nil {
			t.Fatal(err)
		}
		defer m.Shutdown()
		sub := m.Members[0].Subscribe()
		victim := m.Members[2].Name()
		if _, ok := m.AwaitDeath(victim, 5*time.Second); !ok {
			t.Fatal("the death is not known")
		}
		time.Sleep(2 * time.Minute)
		for _, g := range m.Members {
			if p, ok := g.Member(victim); ok {
				t.Errorf("%s remembers %+v", g.Name(), p)
			}
		}
		for {
			if ev := <-sub.Events(); ev.Type == gossip.EventForgotten {
				if ev.Member.Name != victim {
					t.Errorf("%s is forgotten", ev.Member.Name)
				}
				break
			}
		}
	})
}

func TestEventsTellTheStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMesh(t, 3)
		victim := m.Members[2].Name()
		sub := m.Members[0].Subscribe()
		if ev := <-sub.Events(); ev.Type != gossip.EventResync {
			t.Errorf("first event is %v, want resync", ev.Type)
		}
		if err := m.Members[2].SetFacts(gossip.Facts{Version: "v2", MeshAddr: "a:1"}); err != nil {
			t.Fatal(err)
		}
		m.Await(5*time.Second, func(g *gossip.Gossip) bool {
			p, _ := g.Member(victim)
			return p.Facts.Version == "v2"
		})
		m.Kill(victim)
		var story []string
		for ev := range sub.Events() {
			if ev.Member.Name != victim {
				continue
			}
			if n := len(story); n == 0 || story[n-1] != ev.Type.String() {
				story = append(story, ev.Type.String())
			}
			if ev.Type == gossip.EventDead {
				sub.Close()
			}
		}
		if got := strings.Join(story, " "); got != "facts suspect dead" {
			t.Errorf("events: %s", got)
		}
	})
}

func TestKeyRotationLosesNobody(t *testing.T) {
	key := func(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
	synctest.Test(t, func(t *testing.T) {
		m, err := gossiptest.Start(5, func(_ int, c *gossip.Config) {
			c.Mesh = "blue"
			c.Keys = [][]byte{key(1), key(9)}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Shutdown()
		m.AwaitAlive(5 * time.Second)
		m.WatchFalseDeaths(func(by, of string) { t.Errorf("%s declared %s dead", by, of) })
		for next := byte(2); next < 4; next++ {
			old := key(next - 1)
			for _, keys := range [][][]byte{{old, key(9), key(next)}, {key(next), old, key(9)}, {key(next), key(9)}} {
				for _, g := range m.Members {
					for range 2 {
						if err := g.SetKeys(keys); err != nil {
							t.Fatal(err)
						}
					}
					time.Sleep(time.Second)
				}
				want := gossip.Fingerprint(keys)
				told := m.Await(5*time.Second, func(g *gossip.Gossip) bool {
					return !slices.ContainsFunc(g.Members(), func(m gossip.Member) bool { return m.Facts.Keys != want })
				})
				if !told {
					t.Errorf("not every member knows that all have the keys %s", want)
				}
			}
		}
		if !m.AwaitAlive(5 * time.Second) {
			t.Error(troubles(m))
		}
		// Whoever has only an old key stays out.
		err = m.Add(func(_ int, c *gossip.Config) { c.Mesh, c.Keys = "blue", [][]byte{key(1)} })
		if err == nil {
			t.Error("a member with an old key joined")
		}
	})
}

func TestDeathsAreFoundWithEncryption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := gossiptest.Start(10, func(_ int, c *gossip.Config) {
			c.Mesh, c.Keys = "blue", [][]byte{bytes.Repeat([]byte{1}, 32)}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Shutdown()
		m.AwaitAlive(10 * time.Second)
		victim := m.Members[5].Name()
		start := time.Now()
		m.Kill(victim)
		if !m.Await(3*time.Second, stateOf(m, victim, gossip.Suspect)) {
			t.Errorf("not everybody suspects %s", victim)
		}
		if !m.Await(3*time.Second-time.Since(start), stateOf(m, victim, gossip.Dead)) {
			t.Errorf("not dead in time: %s", troubles(m))
		}
	})
}

func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMesh(t, 6)
		cfg := gossip.DefaultConfig()
		cfg.Name, cfg.Transport = "newcomer", m.Network.Host("newcomer")
		g, err := gossip.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Join(t.Context(), []string{"10.9.9.9:7946"}); err == nil {
			t.Error("joined nobody without an error")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.Join(ctx, []string{"10.9.9.9:7946"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want DeadlineExceeded", err)
		}
		addrs := []string{"10.9.9.9:7946", "10.9.9.8:7946", "10.9.9.7:7946"}
		for _, o := range m.Members {
			addrs = append(addrs, o.Addr())
		}
		start := time.Now()
		n, err := g.Join(t.Context(), addrs)
		if n < 3 || err != nil {
			t.Errorf("reached %d, %v; want three at least", n, err)
		}
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("dead addresses held it up for %v", took)
		}
		g.Shutdown()
		g.Shutdown()
		if _, err := g.Join(context.Background(), addrs); !errors.Is(err, gossip.ErrShutdown) {
			t.Errorf("join after shutdown: %v", err)
		}
		if err := g.Leave(context.Background()); !errors.Is(err, gossip.ErrShutdown) {
			t.Errorf("leave after shutdown: %v", err)
		}
		if _, open := <-g.Subscribe().Events(); open {
			t.Error("a subscription after shutdown is open")
		}
	})
}

func TestShutdownEndsEveryGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMesh(t, 10)
		m.Network.SetLoss(0.3) // probes and streams in every stage
		time.Sleep(5 * time.Second)
		m.Shutdown()
		// The bubble fails the test if anything is left.
	})
}

func TestOnLoopback(t *testing.T) {
	var members []*gossip.Gossip
	reg := prometheus.NewRegistry()
	for i := range 3 {
		cfg := gossip.DefaultConfig()
		cfg.Name = gossiptest.Name(i)
		cfg.BindAddr, cfg.BindPort = "127.0.0.1", 0
		cfg.Mesh, cfg.Keys = "loop", [][]byte{bytes.Repeat([]byte{7}, 16)}
		cfg.Facts = gossip.Facts{MeshAddr: cfg.Name, Load: 0.25}
		if i == 0 {
			cfg.Registerer = reg
		}
		g, err := gossip.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(g.Shutdown)
		members = append(members, g)
		if i > 0 {
			if _, err := g.Join(t.Context(), []string{members[0].Addr()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	sub := members[0].Subscribe()
	await := func(what string, ok func(gossip.Member) bool) {
		t.Helper()
		for end := time.After(30 * time.Second); ; {
			if p, found := members[0].Member("host3"); found && ok(p) {
				return
			}
			select {
			case <-sub.Events():
			case <-end:
				p, _ := members[0].Member("host3")
				t.Fatalf("%s: still %+v", what, p)
			}
		}
	}
	await("facts", func(p gossip.Member) bool { return p.Facts.Load == 0.25 && p.State == gossip.Alive })
	members[2].Shutdown()
	await("death", func(p gossip.Member) bool { return p.State == gossip.Dead })
	want := `
# HELP virtmesh_gossip_members Members by state, as seen from here.
# TYPE virtmesh_gossip_members gauge
virtmesh_gossip_members{state="alive"} 2
virtmesh_gossip_members{state="dead"} 1
virtmesh_gossip_members{state="left"} 0
virtmesh_gossip_members{state="suspect"} 0
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "virtmesh_gossip_members"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(reg); err != nil || n < 15 {
		t.Errorf("%d metrics, %v", n, err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

func TestSecondMemberOnTheSamePort(t *testing.T) {
	cfg := gossip.DefaultConfig()
	cfg.Name, cfg.BindAddr, cfg.BindPort = "a", "127.0.0.1", 0
	g, err := gossip.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Shutdown()
	p, _ := g.Member("a")
	_, port, _ := strings.Cut(p.Addr, ":")
	cfg.BindPort = 0
	for _, c := range port {
		cfg.BindPort = cfg.BindPort*10 + int(c-'0')
	}
	if _, err := gossip.New(cfg); err == nil || !strings.Contains(err.Error(), port) {
		t.Errorf("got %v, want an error that names port %s", err, port)
	}
}
