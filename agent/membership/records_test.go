package membership

import (
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/gossip"
	"virtmesh/gossip/gossiptest"
	"virtmesh/raftstore"
)

// writeRecord writes the record of a host, or removes it if at is empty.
func writeRecord(t *testing.T, store *identitytest.Store, name, at string) {
	t.Helper()
	op := raftstore.Op{Key: identity.HostKey(name)}
	if at == "" {
		op.Delete = true
	} else {
		data, err := json.Marshal(identity.HostRecord{Name: name, ID: "machine at " + at, MeshAddress: at, GossipAddress: at})
		if err != nil {
			t.Fatal(err)
		}
		op.Value = data
	}
	if _, err := store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{op}}); err != nil {
		t.Fatal(err)
	}
}

// TestWhoGossipsIsNotYetAHost: a machine that was removed and still gossips is no
// member, whatever it says, and whoever follows the membership is told when a host comes
// or goes.
func TestWhoGossipsIsNotYetAHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, err := gossiptest.Start(3, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Shutdown()
		if !m.AwaitAlive(10 * time.Second) {
			t.Fatal("no mesh")
		}
		p := NewPeers("host1", nil, slog.New(slog.DiscardHandler))
		p.gossip.Store(m.Member("host1"))
		// Only the changes of the records are counted; gossip has events of its own.
		var told atomic.Int32
		defer p.records.onChange(func() { told.Add(1) })()
		if got := p.Members(); len(got) != 3 {
			t.Errorf("before there is a copy of the store: %v", got)
		}
		store := identitytest.NewStore()
		for _, name := range []string{"host1", "host2", "host3"} {
			writeRecord(t, store, name, name+":7443")
		}
		p.OpenRecords(identity.NewHosts(store))
		if got := p.Members(); len(got) != 3 {
			t.Errorf("all have records: %v", got)
		}
		before := told.Load()
		writeRecord(t, store, "host3", "")
		p.records.read()
		if told.Load() != before+1 {
			t.Errorf("told %d times that a host went", told.Load()-before)
		}
		if got := p.Members(); !slices.Equal(got, []string{"host1", "host2"}) {
			t.Errorf("host3 was removed: %v", got)
		}
		if slices.ContainsFunc(p.MemberHealth(), func(h raftstore.MemberHealth) bool { return h.ID == "host3" }) {
			t.Error("the store takes a removed machine for a member")
		}
		p.records.read()
		if told.Load() != before+1 {
			t.Error("told of a change that is none")
		}
		// The record of this host goes last: then the records say nothing any more.
		writeRecord(t, store, "host1", "")
		p.records.read()
		if got := p.Members(); len(got) != 3 {
			t.Errorf("without a record of this host: %v", got)
		}
	})
}

// TestRecordedHostsAreKnownToTheStore: replicas that gossip has lost can be asked to
// take a replica back.
func TestRecordedHostsAreKnownToTheStore(t *testing.T) {
	t.Parallel()
	p := NewPeers("host1", nil, slog.New(slog.DiscardHandler))
	store := identitytest.NewStore()
	for _, name := range []string{"host1", "host2"} {
		writeRecord(t, store, name, name+":7443")
	}
	p.OpenRecords(identity.NewHosts(store))
	health := p.MemberHealth()
	if len(health) != 2 || health[1].ID != "host2" || health[1].Addr != "host2:7443" || health[1].Alive {
		t.Errorf("%+v", health)
	}
}

// TestAddressOfADeadHostIsTakenOver: a broken machine is replaced by one at the same
// address. Gossip remembers the dead one for a day.
func TestAddressOfADeadHostIsTakenOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, err := gossiptest.Start(3, func(i int, c *gossip.Config) {
			c.Facts.MeshAddr = []string{"10.0.0.1:7443", "10.0.0.2:7443", "10.0.0.3:7443"}[i]
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Shutdown()
		if !m.AwaitAlive(10 * time.Second) {
			t.Fatal("no mesh")
		}
		p := NewPeers("host1", nil, slog.New(slog.DiscardHandler))
		p.gossip.Store(m.Member("host1"))
		if got := p.hostAt("10.0.0.3:7443"); got != "host3" {
			t.Errorf("by gossip: %q", got)
		}
		if _, ok := m.AwaitDeath("host3", 10*time.Second); !ok {
			t.Fatal("the death is not known")
		}
		if got := p.hostAt("10.0.0.3:7443"); got != "" {
			t.Errorf("before anything is known of the new machine: %q", got)
		}
		store := identitytest.NewStore()
		writeRecord(t, store, "host1", "10.0.0.1:7443")
		writeRecord(t, store, "host4", "10.0.0.3:7443")
		p.OpenRecords(identity.NewHosts(store))
		if got := p.hostAt("10.0.0.3:7443"); got != "host4" {
			t.Errorf("the new machine: %q", got)
		}
	})
}

// TestRemovedMachineDoesNotGossip: a machine that was removed while it was off, and is
// switched on, must not appear among the live members at each attempt to start.
func TestRemovedMachineDoesNotGossip(t *testing.T) {
	t.Parallel()
	path1, config1 := newMachine(t, "host1")
	path2, config2 := newMachine(t, "host2")
	first := found(t, path1, config1)
	second := joinFirst(t, first, path2, config2)
	shutdown(second)
	if err := identity.NewHosts(first.store).Expel(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	again := newMember(config2, second.options)
	t.Cleanup(func() { shutdown(again) })
	var err error
	for _, step := range again.openingSteps() {
		if err = step.run(t.Context()); err != nil {
			break
		}
	}
	if !errors.Is(err, fault.Expelled) || again.gossip != nil {
		t.Errorf("started with %v, and gossips: %v", err, again.gossip != nil)
	}
}
