package membership

import (
	"log/slog"
	"net/netip"
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
