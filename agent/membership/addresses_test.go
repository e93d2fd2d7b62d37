package membership

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
)

// savedSeeds is a SeedBook.
type savedSeeds []identity.Seed

func (s savedSeeds) Info() identity.Info            { return identity.Info{Seeds: s} }
func (s savedSeeds) SetSeeds([]identity.Seed) error { return nil }

// A listener that keeps places for hosts knows the saved addresses before there is a copy
// of the store, then those of the records, and forgets those of hosts that were removed or
// have another address now.
func TestHostAddressesFollowTheRecords(t *testing.T) {
	t.Parallel()
	p := NewPeers("host1", savedSeeds{
		{Host: "host2", MeshAddress: "192.0.2.2:7443", GossipAddress: "198.51.100.2:7946"},
		{Host: "host3", MeshAddress: "host3.example:7443", GossipAddress: "[2001:db8::3]:7946"},
	}, slog.New(slog.DiscardHandler))
	expect := func(when string, want map[string]bool) {
		t.Helper()
		for addr, known := range want {
			if p.IsHostAddress(netip.MustParseAddr(addr)) != known {
				t.Errorf("%s: %s is known: %v, want %v", when, addr, !known, known)
			}
		}
	}
	expect("saved", map[string]bool{"192.0.2.2": true, "198.51.100.2": true, "2001:db8::3": true, "2001:db8::4": false, "192.0.2.1": false})
	store := identitytest.NewStore()
	writeRecord(t, store, "host1", "192.0.2.1:7443")
	writeRecord(t, store, "host2", "192.0.2.22:7443")
	p.OpenRecords(identity.NewHosts(store))
	expect("records", map[string]bool{"192.0.2.1": true, "192.0.2.22": true, "192.0.2.2": false, "198.51.100.2": false})
	writeRecord(t, store, "host2", "")
	writeRecord(t, store, "host4", "192.0.2.4:7443")
	p.readRecords()
	expect("changed", map[string]bool{"192.0.2.1": true, "192.0.2.22": false, "192.0.2.4": true})
}

// Guests are kept away from every address that a host has in its record, also of a host
// that gossip does not know because it has been dead for long, and of one whose mesh
// address is of IPv6. Those of a removed host are free.
func TestGuestsAreKeptAwayFromAllHosts(t *testing.T) {
	t.Parallel()
	p := NewPeers("host1", savedSeeds{{Host: "host2", MeshAddress: "192.0.2.2:7443", GossipAddress: "198.51.100.2:7946"}}, slog.New(slog.DiscardHandler))
	expect := func(when string, want ...string) {
		t.Helper()
		var prefixes []netip.Prefix
		for _, prefix := range want {
			prefixes = append(prefixes, netip.MustParsePrefix(prefix))
		}
		if got := p.ProtectedAddresses(); !slices.Equal(got, prefixes) {
			t.Errorf("%s: %v, want %v", when, got, prefixes)
		}
	}
	expect("saved", "192.0.2.2/32", "198.51.100.2/32")
	m := identitytest.NewMesh(t)
	r := newRecord(t, m)
	r.interfaces = func() ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("10.0.0.42"), netip.MustParseAddr("10.77.0.1")}, nil
	}
	if err := r.updateOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	writeRecord(t, m.Store, "host2", "[2001:db8::2]:7443")
	p.OpenRecords(identity.NewHosts(m.Store))
	expect("records", "10.0.0.42/32", "10.77.0.1/32", "2001:db8::2/128")
	changed := 0
	defer p.records.onChange(func() {
		changed++
		expect("as soon as a change is told", "10.0.0.42/32", "10.77.0.2/32")
	})()
	r.interfaces = func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("10.77.0.2")}, nil }
	if err := r.updateOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	writeRecord(t, m.Store, "host2", "")
	p.readRecords()
	expect("changed", "10.0.0.42/32", "10.77.0.2/32")
	if changed != 1 {
		t.Errorf("the host's network heard of %d changes", changed)
	}
}

// TestSeedsSayWhoTheHostsAre: a host recognises others by the keys that their records say they
// keep, also before it has opened its copy of the state.
func TestSeedsSayWhoTheHostsAre(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	_, member := machineOf(t, m)
	hosts := identity.NewHosts(m.Store)
	for _, kept := range []bool{false, true} {
		if kept {
			if err := hosts.Update(t.Context(), m.First.Node(), func(r *identity.HostRecord) { r.KeyKept = true }); err != nil {
				t.Fatal(err)
			}
		}
		member.peers.OpenRecords(hosts)
		member.peers.readRecords()
		for what, seeds := range map[string][]identity.Seed{"known": member.peers.Seeds(), "saved": member.identity.Info().Seeds} {
			if len(seeds) != 1 || seeds[0].Is(m.First.Node(), m.First.KeyPin()) != kept {
				t.Errorf("%s while the key is kept %v: %+v", what, kept, seeds)
			}
		}
	}
}
