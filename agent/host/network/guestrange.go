package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"virtmesh/agent/fault"
	"virtmesh/netplug"
	"virtmesh/netplug/kernel"
)

// HostRoutes returns where this host sends IPv4 packets without its guests: its routes but
// default ones and those of the default network, and its own addresses, as routes to one
// address each.
func HostRoutes() ([]netplug.Route, error) {
	all, err := kernel.Routes()
	if err != nil {
		return nil, err
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the host's interfaces: %w", err)
	}
	for _, link := range interfaces {
		addresses, err := link.Addrs()
		if err != nil {
			continue // the interface is gone
		}
		for _, address := range addresses {
			prefix, err := netip.ParsePrefix(address.String())
			if err == nil && prefix.Addr().Is4() && !prefix.Addr().IsLoopback() {
				all = append(all, netplug.Route{Destination: netip.PrefixFrom(prefix.Addr(), 32), Device: link.Name})
			}
		}
	}
	return slices.DeleteFunc(all, func(r netplug.Route) bool { return r.Device == PodBridge }), nil
}

// Overlap returns the routes that a range of guests would take the place of (within), and
// those to wider networks that the range is a part of (around): whether guests may have their
// part of such a network, only its administrator knows.
func Overlap(guests netip.Prefix, routes []netplug.Route) (within, around []netplug.Route) {
	for _, r := range routes {
		switch {
		case !r.Destination.Overlaps(guests):
		case r.Destination.Bits() < guests.Bits():
			around = append(around, r)
		default:
			within = append(within, r)
		}
	}
	return within, around
}

// CheckRange returns a fault if guests cannot have a range of addresses on a host with such
// routes: the host would lose what it reaches there now, and could be cut off itself. chosen
// says that a person has chosen the range, and so knows that the wider network that it may be
// a part of uses it for nothing else.
func CheckRange(guests netip.Prefix, routes []netplug.Route, chosen bool) error {
	within, around := Overlap(guests, routes)
	switch {
	case len(within) > 0:
		return fault.New(fault.Conflict, "guests cannot have %s: this host has %s on %s", guests, within[0].Destination, orNowhere(within[0].Device)).
			WithRemedy("choose a range that is free in your networks: 'virtmesh agent init --guest-network RANGE' on the first host")
	case len(around) > 0 && !chosen:
		return fault.New(fault.Conflict, "it is not certain that guests can have %s: it is a part of %s, which this host reaches by %s", guests, around[0].Destination, orNowhere(around[0].Device)).
			WithRemedy(fmt.Sprintf("if nothing there uses it, say so with --guest-network %s, else choose another range", guests))
	}
	return nil
}

func orNowhere(device string) string {
	if device == "" {
		return "a route that leads nowhere"
	}
	return device
}
