package network

import (
	"net/netip"
	"strings"
	"testing"

	"virtmesh/netplug"
)

func TestCheckRange(t *testing.T) {
	route := func(destination, device string) []netplug.Route {
		return []netplug.Route{{Destination: netip.MustParsePrefix(destination), Device: device}}
	}
	for _, test := range []struct {
		name   string
		routes []netplug.Route
		// byDefault and chosen are parts of the refusals; empty: the guests have the range.
		byDefault, chosen string
	}{
		{"free", route("10.63.0.0/16", "eth0"), "", ""},
		{"next to it", route("10.68.0.0/14", "eth0"), "", ""},
		{"nothing", nil, "", ""},
		{"the LAN is within", route("10.64.0.0/16", "eth0"), "10.64.0.0/16 on eth0", "10.64.0.0/16 on eth0"},
		{"the same", route("10.64.0.0/14", "wg0"), "10.64.0.0/14 on wg0", "10.64.0.0/14 on wg0"},
		{"an address of the host", route("10.67.255.255/32", "lo"), "10.67.255.255/32", "10.67.255.255/32"},
		{"a VPN around it", route("10.0.0.0/8", "tun0"), "part of 10.0.0.0/8", ""},
		{"half a default route", route("0.0.0.0/1", "tun0"), "part of 0.0.0.0/1", ""},
		{"a route to nowhere", route("10.0.0.0/8", ""), "leads nowhere", ""},
	} {
		for chosen, want := range map[bool]string{false: test.byDefault, true: test.chosen} {
			err := CheckRange(netip.MustParsePrefix("10.64.0.0/14"), test.routes, chosen)
			if (err != nil) != (want != "") || err != nil && (!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--guest-network")) {
				t.Errorf("%s, chosen %v: %v, want %q", test.name, chosen, err, want)
			}
		}
	}
}
