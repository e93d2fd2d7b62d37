package kernel

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtmesh/netplug"
)

// routeProtocol marks our routes, as the kernel keeps for each who made it. It is not
// taken by any routing daemon (see rt_protos of iproute2).
const routeProtocol = 118

// route is one to a single guest.
func route(r netplug.Route) *netlink.Route {
	return &netlink.Route{
		Dst:      &net.IPNet{IP: r.To.AsSlice(), Mask: net.CIDRMask(32, 32)},
		Gw:       r.Via.AsSlice(),
		Protocol: routeProtocol,
	}
}

// readRoutes lists our routes.
func (k *Kernel) readRoutes() ([]netplug.Route, error) {
	routes, err := dump(func() ([]netlink.Route, error) {
		return k.handle.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []netplug.Route
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		to, okTo := netip.AddrFromSlice(r.Dst.IP)
		via, okVia := netip.AddrFromSlice(r.Gw)
		if okTo && okVia {
			out = append(out, netplug.Route{To: to.Unmap(), Via: via.Unmap()})
		}
	}
	return out, nil
}
