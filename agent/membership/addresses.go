package membership

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"

	"virtmesh/agent/identity"
)

// addresses are the IP addresses of the mesh's hosts, for listeners that keep places for
// members. Methods may be called concurrently.
type addresses struct {
	set atomic.Pointer[map[netip.Addr]struct{}]
}

// has reports whether an address is that of a host.
func (a *addresses) has(addr netip.Addr) bool {
	set := a.set.Load()
	if set == nil {
		return false
	}
	_, ok := (*set)[addr]
	return ok
}

// list returns the addresses, in no order.
func (a *addresses) list() []netip.Addr {
	set := a.set.Load()
	if set == nil {
		return nil
	}
	return slices.Collect(maps.Keys(*set))
}

// replace makes the addresses those of hosts according to their records, and to what is
// saved. A host that is known by a DNS name only has none: resolving a name may block, and
// the answer comes from elsewhere.
func (a *addresses) replace(records []identity.HostRecord, seeds []identity.Seed) {
	set := map[netip.Addr]struct{}{}
	add := func(host string) {
		if addr, err := netip.ParseAddr(host); err == nil {
			set[addr.Unmap().WithZone("")] = struct{}{}
		}
	}
	addHostPort := func(address string) {
		if host, _, err := net.SplitHostPort(address); err == nil {
			add(host)
		}
	}
	for _, record := range records {
		addHostPort(record.MeshAddress)
		addHostPort(record.GossipAddress)
		for _, name := range record.SANs {
			add(name)
		}
		// A host with several networks may call from any of its addresses.
		for _, addr := range record.Addresses {
			set[addr.Unmap().WithZone("")] = struct{}{}
		}
	}
	for _, seed := range seeds {
		addHostPort(seed.MeshAddress)
		addHostPort(seed.GossipAddress)
	}
	a.set.Store(&set)
}

// IsHostAddress reports whether an IP address is that of a host of the mesh, by the records
// in the local copy of the store, or before there are any, by the addresses saved in the
// identity. It does not block. It says who is let try, not who somebody is: anybody who
// shares a network with a host can use its address while the host is off.
func (p *Peers) IsHostAddress(addr netip.Addr) bool { return p.addresses.has(addr) }

// ProtectedAddresses returns the hosts' own addresses, which guests must not reach: those
// of every host that has a record, dead or alive, and those that gossip has besides. Before
// there are records they are the saved ones.
func (p *Peers) ProtectedAddresses() []netip.Prefix {
	addresses := p.addresses.list()
	for _, member := range p.members() {
		if address, err := netip.ParseAddrPort(member.Addr); err == nil {
			addresses = append(addresses, address.Addr())
		}
	}
	prefixes := make([]netip.Prefix, 0, len(addresses))
	for _, address := range addresses {
		address = address.Unmap().WithZone("")
		prefixes = append(prefixes, netip.PrefixFrom(address, address.BitLen()))
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return slices.Compact(prefixes)
}

// readAddresses reads the addresses of the hosts again.
func (p *Peers) readAddresses() {
	records, ok := p.records.list()
	var seeds []identity.Seed
	if !ok && p.seeds != nil {
		records, seeds = nil, p.seeds.Info().Seeds
	}
	p.addresses.replace(records, seeds)
}
