package gossip_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/gossip"
	"virtmesh/gossip/gossiptest"
)

// startMesh starts a settled mesh and shuts it down at the end of the test.
func startMesh(t *testing.T, n int) *gossiptest.Mesh {
	t.Helper()
	m, err := gossiptest.StartSettled(n, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Shutdown)
	if !m.AwaitAlive(10 * time.Second) {
		t.Fatal("the mesh did not come together")
	}
	return m
}

// deaths is a mesh of whose members some die, one after the other.
type deaths struct {
	members int
	loss    float64
	kills   int
	within  time.Duration // everybody must know of each
}

func TestDeathIsKnownEverywhereInTime(t *testing.T) {
	testDeaths(t, []deaths{
		{members: 2, kills: 1, within: 3 * time.Second},
		{members: 3, kills: 1, within: 3 * time.Second},
		{members: 10, loss: 0.05, kills: 6, within: 3 * time.Second},
	})
}

func testDeaths(t *testing.T, cases []deaths) {
	t.Helper()
	for _, tc := range cases {
		t.Run(fmt.Sprintf("members=%d/loss=%v", tc.members, tc.loss), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := startMesh(t, tc.members)
				m.Network.SetLoss(tc.loss)
				for range tc.kills {
					victim := m.Members[len(m.Members)/2].Name()
					took, ok := m.AwaitDeath(victim, 2*tc.within)
					if !ok || took > tc.within {
						t.Errorf("death of %s known everywhere after %v, want at most %v", victim, took, tc.within)
					}
					t.Logf("%s: %v", victim, took)
				}
				for _, g := range m.Members {
					if dead := g.Count(gossip.Dead); dead != tc.kills {
						t.Errorf("%s counts %d dead, want %d", g.Name(), dead, tc.kills)
					}
				}
			})
		})
	}
}

// trouble is a mesh that loses packets and whose members get too little CPU time.
type trouble struct {
	name    string
	members int
	loss    float64
	starved int
	// A starved member runs for awake, then not for asleep, and so on.
	asleep, awake time.Duration
}

func TestNoFalseDeaths(t *testing.T) {
	testNoFalseDeaths(t, []trouble{
		{name: "starved in a small mesh", members: 3, starved: 1, asleep: time.Second, awake: 50 * time.Millisecond},
		{name: "starved", members: 50, starved: 5, asleep: time.Second, awake: 50 * time.Millisecond},
		{name: "starved badly", members: 50, starved: 1, asleep: 1400 * time.Millisecond, awake: 300 * time.Millisecond},
		{name: "half starved and loss", members: 20, loss: 0.05, starved: 10, asleep: 700 * time.Millisecond, awake: 100 * time.Millisecond},
	})
}

func testNoFalseDeaths(t *testing.T, cases []trouble) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := startMesh(t, tc.members)
				m.WatchFalseDeaths(func(by, of string) { t.Errorf("%s declared %s dead", by, of) })
				m.Network.SetLoss(tc.loss)
				for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
					starve(m, tc.starved, true)
					time.Sleep(max(tc.asleep, time.Millisecond))
					starve(m, tc.starved, false)
					time.Sleep(max(tc.awake, time.Millisecond))
				}
				m.Network.SetLoss(0)
				if !m.AwaitAlive(30 * time.Second) {
					t.Error("members stayed suspect:", troubles(m))
				}
			})
		})
	}
}

// troubles lists which members are not seen alive, and by which others.
func troubles(m *gossiptest.Mesh) string {
	var b strings.Builder
	for _, g := range m.Members {
		for _, p := range g.Members() {
			if p.State != gossip.Alive {
				fmt.Fprintf(&b, "%s sees %s %v since %v; ", g.Name(), p.Name, p.State, time.Since(p.Since))
			}
		}
	}
	return b.String()
}

func starve(m *gossiptest.Mesh, n int, on bool) {
	for i := range n {
		m.Network.Starve(gossiptest.Name(i), on)
	}
}
