package raftstoretest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"virtmesh/raftstore"
)

// Cluster is a group of replicas on a Network. Kill, Restart and SetHealth change the
// health of the hosts that Config.Members reports.
type Cluster struct {
	Net  *Network
	Keys *Keys

	tb      testing.TB
	dir     string
	options []Option

	mu     sync.Mutex
	own    map[string][]Option // of one host, see Use
	hosts  []string
	nodes  map[string]*raftstore.Store // nil while killed
	health map[string]raftstore.MemberHealth
}

// NewCluster opens n replicas named host1, host2 and so on. It waits until they serve
// and the expected number of them votes. Their data is in a temporary directory of
// the test, so that Restart finds it.
func NewCluster(tb testing.TB, n int, options ...Option) *Cluster {
	tb.Helper()
	c := &Cluster{
		Net: NewNetwork(), Keys: NewKeys(), tb: tb, dir: tb.TempDir(), options: options,
		own:   make(map[string][]Option),
		nodes: make(map[string]*raftstore.Store), health: make(map[string]raftstore.MemberHealth),
	}
	tb.Cleanup(c.close)
	for i := range n {
		c.Add(fmt.Sprintf("host%d", i+1))
	}
	c.WaitVoters(wantVoters(n))
	return c
}

// wantVoters returns how many of n replicas vote under the default policy.
func wantVoters(n int) int {
	n = min(n, 5)
	if n%2 == 0 {
		n--
	}
	return n
}

// Add opens a replica. The first replica founds the group, the others join it.
func (c *Cluster) Add(id string) *raftstore.Store {
	c.tb.Helper()
	c.mu.Lock()
	first := len(c.hosts) == 0
	seeds := make([]string, 0, len(c.hosts))
	for _, h := range c.hosts {
		seeds = append(seeds, c.health[h].Addr)
	}
	c.hosts = append(c.hosts, id)
	c.mu.Unlock()
	s := c.open(id, first)
	if first {
		WaitServing(c.tb, s)
		return s
	}
	ctx, cancel := context.WithTimeout(c.tb.Context(), ReadyTimeout)
	defer cancel()
	if err := s.Join(ctx, seeds); err != nil {
		c.tb.Fatalf("%s joins: %v", id, err)
	}
	return s
}

// Config returns the configuration of a host with new listeners. The host's replica
// must not be running.
func (c *Cluster) Config(id string) raftstore.Config {
	cfg := Config(c.Net, id)
	cfg.DataDir = filepath.Join(c.dir, id)
	cfg.Members = c.Members
	c.mu.Lock()
	cfg.Signer = c.Keys.Signer(id)
	own := c.own[id]
	c.mu.Unlock()
	for _, o := range append(slices.Clone(c.options), own...) {
		o(&cfg)
	}
	return cfg
}

// Use sets the options of one host, from its next start on. They come after those of the
// cluster, and replace what an earlier Use has set.
func (c *Cluster) Use(id string, options ...Option) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own[id] = options
}

// open starts a replica and marks it alive.
func (c *Cluster) open(id string, bootstrap bool) *raftstore.Store {
	c.tb.Helper()
	cfg := c.Config(id)
	cfg.Bootstrap = bootstrap
	s, err := raftstore.Open(c.tb.Context(), cfg)
	if err != nil {
		c.tb.Fatalf("open %s: %v", id, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[id] = s
	h := c.health[id]
	h.ID, h.Addr, h.Alive = id, cfg.Addr, true
	c.health[id] = h
	return s
}

// Members reports the health of all hosts.
func (c *Cluster) Members() []raftstore.MemberHealth {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]raftstore.MemberHealth, 0, len(c.hosts))
	for _, h := range c.hosts {
		if m, ok := c.health[h]; ok {
			list = append(list, m)
		}
	}
	return list
}

// SetHealth changes the health that Members reports for a host. A host that was not added
// becomes a member.
func (c *Cluster) SetHealth(id string, change func(*raftstore.MemberHealth)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.hosts, id) {
		c.hosts = append(c.hosts, id)
	}
	h := c.health[id]
	h.ID = id
	change(&h)
	c.health[id] = h
}

// Remove makes a host no member. Its replica goes on until it is killed.
func (c *Cluster) Remove(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.health, id)
}

// Node returns the replica of a host, nil if it was killed.
func (c *Cluster) Node(id string) *raftstore.Store {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[id]
}

// Live returns the running replicas in the order in which they were added.
func (c *Cluster) Live() []*raftstore.Store {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []*raftstore.Store
	for _, h := range c.hosts {
		if s := c.nodes[h]; s != nil {
			list = append(list, s)
		}
	}
	return list
}

// Addr returns the address of a host.
func (c *Cluster) Addr(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.health[id].Addr
}

// Kill stops a replica without removing it from the group first.
func (c *Cluster) Kill(id string) {
	c.tb.Helper()
	c.mu.Lock()
	s := c.nodes[id]
	c.nodes[id] = nil
	h := c.health[id]
	h.Alive = false
	c.health[id] = h
	c.mu.Unlock()
	if s == nil {
		return
	}
	if err := s.Close(); err != nil {
		c.tb.Errorf("close %s: %v", id, err)
	}
	c.Net.Hangup(h.Addr)
}

// Restart opens a killed replica with the data it had. It does not wait until the
// replica serves.
func (c *Cluster) Restart(id string) *raftstore.Store {
	c.tb.Helper()
	return c.open(id, false)
}

// Leader waits until the live replicas agree on a leader and returns its ID.
func (c *Cluster) Leader() string {
	c.tb.Helper()
	var leader string
	Eventually(c.tb, func() error {
		leader = ""
		for _, s := range c.Live() {
			if s.IsLeader() {
				id, _ := s.Leader()
				if leader != "" && leader != id {
					return fmt.Errorf("both %s and %s lead", leader, id)
				}
				leader = id
			}
		}
		if leader == "" {
			return errors.New("nobody leads")
		}
		return nil
	})
	return leader
}

// WaitVoters waits until exactly n replicas vote.
func (c *Cluster) WaitVoters(n int) {
	c.tb.Helper()
	Eventually(c.tb, func() error {
		for _, s := range c.Live() {
			if got := s.Status(c.tb.Context()).Voters; s.IsLeader() && len(got) == n {
				return nil
			} else if s.IsLeader() {
				return fmt.Errorf("voters are %v, want %d", got, n)
			}
		}
		return errors.New("nobody leads")
	})
}

// WaitRevision waits until every live replica has reached a revision.
func (c *Cluster) WaitRevision(revision uint64) {
	c.tb.Helper()
	Eventually(c.tb, func() error {
		for _, s := range c.Live() {
			if s.Revision() < revision {
				return fmt.Errorf("a replica is at revision %d, want %d", s.Revision(), revision)
			}
		}
		return nil
	})
}

func (c *Cluster) close() {
	c.mu.Lock()
	hosts := c.hosts
	c.mu.Unlock()
	c.Net.Heal()
	for _, h := range hosts {
		c.Kill(h)
	}
}
