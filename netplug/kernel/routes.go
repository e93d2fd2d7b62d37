package kernel

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtmesh/netplug"
)

// Routes returns the host's IPv4 routes of all tables but those of its own addresses and of
// broadcasts, and without default routes.
func Routes() ([]netplug.Route, error) {
	found, err := listUndisturbed(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	links, err := listUndisturbed(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{}
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	var routes []netplug.Route
	for _, r := range found {
		if r.Table == unix.RT_TABLE_LOCAL || r.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		bits, _ := r.Dst.Mask.Size()
		if !ok || bits == 0 {
			continue
		}
		route := netplug.Route{Destination: netip.PrefixFrom(addr, bits), Device: names[r.LinkIndex]}
		if len(r.MultiPath) > 0 {
			route.Device = names[r.MultiPath[0].LinkIndex]
		}
		routes = append(routes, route)
	}
	return routes, nil
}
