package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// HostAddresses returns the IPv4 addresses of this host's interfaces in order, from which
// guests on all hosts are kept away. It leaves out loopback and link-local addresses, which
// are no host's own, and the gateway of the default network, which no other host reaches.
func HostAddresses() ([]netip.Addr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the host's interfaces: %w", err)
	}
	var addresses []netip.Addr
	for _, link := range interfaces {
		if link.Name == PodBridge {
			continue
		}
		list, err := link.Addrs()
		if err != nil {
			continue // the interface is gone
		}
		for _, address := range list {
			prefix, err := netip.ParsePrefix(address.String())
			if addr := prefix.Addr().Unmap(); err == nil && addr.Is4() && addr.IsGlobalUnicast() {
				addresses = append(addresses, addr)
			}
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses), nil
}
