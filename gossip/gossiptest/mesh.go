package gossiptest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"virtmesh/gossip"
)

// Mesh is a number of members on a simulated network.
type Mesh struct {
	Network *Network
	Members []*gossip.Gossip
	byName  map[string]*gossip.Gossip
	ending  sync.WaitGroup
	started int
}

func newMesh() *Mesh {
	return &Mesh{Network: NewNetwork(), byName: make(map[string]*gossip.Gossip)}
}

// Adopt returns a mesh without members on a network. The caller appends to Members what
// it starts itself, for example members that begin apart.
func Adopt(n *Network) *Mesh {
	m := newMesh()
	m.Network = n
	return m
}

// Name returns the name of member i of a mesh, counted from 0.
func Name(i int) string { return fmt.Sprintf("host%d", i+1) }

// Start starts n members, spread over a second, and joins them. If tune is not nil, it
// may change the configuration of a member before the member starts.
func Start(n int, tune func(i int, c *gossip.Config)) (*Mesh, error) {
	m := newMesh()
	return m, m.start(n, tune)
}

func (m *Mesh) start(n int, tune func(i int, c *gossip.Config)) error {
	for i := range n {
		if err := m.Add(tune); err != nil {
			m.Shutdown()
			return fmt.Errorf("start member %d: %w", i, err)
		}
		// Timers started at the same instant would fire together for ever.
		time.Sleep(time.Second / time.Duration(n))
	}
	return nil
}

// StartSettled is Start for a mesh whose members have known each other for long. After
// Start, every member passes on the join of every other one a dozen times. For 1,000
// members this costs minutes of CPU and has nothing to do with the test that follows.
// StartSettled lets the members learn of each other from the first one, and the network
// drops their rumours until no member has any left to send.
func StartSettled(n int, tune func(i int, c *gossip.Config)) (*Mesh, error) {
	m := newMesh()
	m.Network.quiet.Store(true)
	defer m.Network.quiet.Store(false)
	if err := m.start(n, tune); err != nil {
		return nil, err
	}
	// A member answers a join before it has merged the joining member's state.
	for m.Members[0].Count(gossip.Alive) < n {
		time.Sleep(time.Millisecond)
	}
	for _, g := range m.Members[1:] {
		if _, err := g.Join(context.Background(), []string{m.Members[0].Addr()}); err != nil {
			m.Shutdown()
			return nil, fmt.Errorf("settle: %w", err)
		}
	}
	m.Network.drain()
	return m, nil
}

// Add starts one more member and joins it to the first.
func (m *Mesh) Add(tune func(i int, c *gossip.Config)) error {
	return m.AddNamed(Name(m.started), tune)
}

// AddNamed is Add with a given name, such as that of a member that was killed. The new
// member has a new address.
func (m *Mesh) AddNamed(name string, tune func(i int, c *gossip.Config)) error {
	cfg := gossip.DefaultConfig()
	cfg.Name = name
	cfg.Facts = gossip.Facts{MeshAddr: fmt.Sprintf("%s:7443", name), Version: "v1"}
	cfg.Transport = m.Network.Host(name)
	if tune != nil {
		tune(m.started, &cfg)
	}
	m.started++
	g, err := gossip.New(cfg)
	if err != nil {
		return err
	}
	m.Members = append(m.Members, g)
	m.byName[name] = g
	if len(m.Members) == 1 {
		return nil
	}
	_, err = g.Join(context.Background(), []string{m.Members[0].Addr()})
	return err
}

// Member returns the member of that name, nil if there is none.
func (m *Mesh) Member(name string) *gossip.Gossip { return m.byName[name] }

// AwaitAlive waits until every member sees every member alive, and returns
// false if that took longer than limit.
func (m *Mesh) AwaitAlive(limit time.Duration) bool {
	return m.Await(limit, func(g *gossip.Gossip) bool {
		return g.Count(gossip.Alive) == len(m.Members)
	})
}

// Await waits until ok holds for every member. It returns false if that takes longer
// than limit. It checks every 20 ms, member by member: a member for which ok held is
// checked again only after ok has held for all of them.
func (m *Mesh) Await(limit time.Duration, ok func(*gossip.Gossip) bool) bool {
	end := time.Now().Add(limit)
	for good := 0; ; {
		for good < len(m.Members) && ok(m.Members[good]) {
			good++
		}
		if good == len(m.Members) {
			for good = 0; good < len(m.Members) && ok(m.Members[good]); good++ {
			}
			if good == len(m.Members) {
				return true
			}
		}
		if !time.Now().Before(end) {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Kill cuts the power of a member: no other member receives anything from it again. It
// also removes the member from Members.
func (m *Mesh) Kill(name string) {
	m.Network.Kill(name)
	m.Remove(name)
}

// Remove shuts a member down in the background and removes it from Members.
func (m *Mesh) Remove(name string) {
	g := m.byName[name]
	delete(m.byName, name)
	m.Members = slices.DeleteFunc(m.Members, func(o *gossip.Gossip) bool { return o == g })
	m.ending.Go(g.Shutdown)
}

// Shutdown shuts every member down and waits for them.
func (m *Mesh) Shutdown() {
	for _, g := range m.Members {
		m.ending.Go(g.Shutdown)
	}
	m.ending.Wait()
}

// WatchFalseDeaths calls death whenever, from now on, a member declares another one
// dead that was not killed. Declarations of a member that is starved at that moment are
// left out: in reality its clock would have stood still as well. The watch ends with
// the mesh.
func (m *Mesh) WatchFalseDeaths(death func(by, of string)) {
	for _, g := range m.Members {
		sub := g.Subscribe()
		host := m.Network.byName(g.Name())
		go func() {
			for ev := range sub.Events() {
				if ev.Type == gossip.EventDead && !host.isStarved() && !m.Network.byName(ev.Member.Name).dead.Load() {
					death(g.Name(), ev.Member.Name)
				}
			}
		}()
	}
}

// AwaitDeath kills a member and waits until every other one has declared it dead. It
// returns how long that took, and false if it took longer than limit.
func (m *Mesh) AwaitDeath(name string, limit time.Duration) (time.Duration, bool) {
	start := time.Now()
	m.Kill(name)
	ok := m.Await(limit, func(g *gossip.Gossip) bool {
		member, known := g.Member(name)
		return known && member.State == gossip.Dead
	})
	return time.Since(start), ok
}
