package netplug_test

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"virtmesh/netplug"
	"virtmesh/netplug/netplugtest"
)

// goodWant uses every field that is checked.
func goodWant() netplug.Want {
	pod := podBridge()
	pod.MTU = 1400
	a, b := tapOf("vm-pod", "a", 1), tapOf("br1", "b", 2)
	a.Address = netip.MustParseAddr("10.9.0.9")
	b.VLAN = 7
	return netplug.Want{
		Bridges: []netplug.Bridge{
			pod,
			{Name: "br1", Uplink: "up0", VLANFiltering: true},
			{Name: "br2", Uplink: "up0", UplinkVLAN: 7, AllowExisting: true},
		},
		Taps:      []netplug.Tap{a, b},
		Protected: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		DNS:       netplug.DNS{Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")}},
	}
}

func TestValidate(t *testing.T) {
	if err := goodWant().Validate(); err != nil {
		t.Fatalf("good want: %v", err)
	}
	for _, tc := range []struct {
		want  string
		spoil func(w *netplug.Want)
	}{
		{`bridges[0].name: "" cannot name`, func(w *netplug.Want) { w.Bridges[0].Name = "" }},
		{`bridges[0].name: "../etc" cannot name`, func(w *netplug.Want) { w.Bridges[0].Name = "../etc" }},
		{`bridges[0].name: "vm-jbgy6x5f24dk" could be the name of a tap`, func(w *netplug.Want) { w.Bridges[0].Name = "vm-jbgy6x5f24dk" }},
		{`bridges[2].name: "br1" is in the list twice`, func(w *netplug.Want) { w.Bridges[2].Name = "br1" }},
		{"bridges[0].mtu: 60 is not", func(w *netplug.Want) { w.Bridges[0].MTU = 60 }},
		{"bridges[0].address: fd00::1/64 is not IPv4", func(w *netplug.Want) { w.Bridges[0].Address = netip.MustParsePrefix("fd00::1/64") }},
		{"bridges[0].address: prefix length 31", func(w *netplug.Want) { w.Bridges[0].Address = netip.MustParsePrefix("10.9.0.1/31") }},
		{"bridges[0].address: 10.9.0.0/24 is the address of the subnet", func(w *netplug.Want) { w.Bridges[0].Address = netip.MustParsePrefix("10.9.0.0/24") }},
		{"bridges[1].nat: needs an address", func(w *netplug.Want) { w.Bridges[1].NAT = true }},
		{"bridges[1].dhcp: needs an address", func(w *netplug.Want) { w.Bridges[1].DHCP = &netplug.DHCP{} }},
		{"bridges[1].dns: needs an address", func(w *netplug.Want) { w.Bridges[1].DNS = true }},
		{"bridges[0].allowExisting: cannot be combined with", func(w *netplug.Want) { w.Bridges[0].AllowExisting = true }},
		{"bridges[1].address: 10.0.0.0/8 overlaps 10.9.0.0/24", func(w *netplug.Want) { w.Bridges[1].Address = netip.MustParsePrefix("10.0.0.1/8") }},
		{"bridges[0].uplinkVLAN: needs an uplink", func(w *netplug.Want) { w.Bridges[0].UplinkVLAN = 5 }},
		{"bridges[2].uplinkVLAN: 4095 is not between", func(w *netplug.Want) { w.Bridges[2].UplinkVLAN = 4095 }},
		{"bridges[2].uplink: up0 is already that of bridges[1]", func(w *netplug.Want) { w.Bridges[2].UplinkVLAN = 0 }},
		{"bridges[0].dhcp.leaseTime: is negative", func(w *netplug.Want) { w.Bridges[0].DHCP.LeaseTime = -1 }},
		{`taps[0].name: "tap0" cannot name a tap`, func(w *netplug.Want) { w.Taps[0].Name = "tap0" }},
		{"taps[1].name: vm-a is also taps[0], of ns/a/net0", func(w *netplug.Want) { w.Taps[1].Name = "vm-a" }},
		{`taps[0].bridge: "none" is not in the list`, func(w *netplug.Want) { w.Taps[0].Bridge = "none" }},
		{`taps[0].mac: "" is not an Ethernet address`, func(w *netplug.Want) { w.Taps[0].MAC = nil }},
		{"taps[0].mac: 01:00:00:00:00:01 is a group address", func(w *netplug.Want) { w.Taps[0].MAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} }},
		{"taps[1].mac: 02:00:00:00:00:01 is already that of taps[0].mac", func(w *netplug.Want) {
			w.Taps[1] = tapOf("vm-pod", "b", 1)
		}},
		{"taps[1].address: 10.9.0.9 is already that of taps[0].address", func(w *netplug.Want) {
			w.Taps[1] = tapOf("vm-pod", "b", 2)
			w.Taps[1].Address = w.Taps[0].Address
		}},
		{"taps[0].address: 10.9.1.1 cannot be a host of 10.9.0.0/24", func(w *netplug.Want) { w.Taps[0].Address = netip.MustParseAddr("10.9.1.1") }},
		{"taps[0].address: 10.9.0.255 cannot be a host", func(w *netplug.Want) { w.Taps[0].Address = netip.MustParseAddr("10.9.0.255") }},
		{"taps[0].vlan: bridge vm-pod has no VLAN filtering", func(w *netplug.Want) { w.Taps[0].VLAN = 7 }},
		{"taps[1].vlan: -1 is not between", func(w *netplug.Want) { w.Taps[1].VLAN = -1 }},
		{"taps[0].queues: 300 is not", func(w *netplug.Want) { w.Taps[0].Queues = 300 }},
		{"protected[0]: is not a network", func(w *netplug.Want) { w.Protected[0] = netip.Prefix{} }},
		{"allowed[0]: is not a network", func(w *netplug.Want) { w.Allowed = []netip.Prefix{{}} }},
		{"dns.upstreams[0]: is not an address", func(w *netplug.Want) { w.DNS.Upstreams[0] = netip.AddrPort{} }},
	} {
		t.Run(tc.want, func(t *testing.T) {
			w := goodWant()
			tc.spoil(&w)
			err := w.Validate()
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %v", err)
			}
			k := netplugtest.NewFake(uplink("up0"))
			if _, err := newPlug(t, k, &servers{}, nil).Set(t.Context(), w); err == nil || len(k.Done()) > 0 {
				t.Errorf("Set of it changes the host: %v", err)
			}
		})
	}
}

// TestFilter compares the packet filter of a host with every kind of rule. The tests of
// package kernel check that the kernel accepts the printed form.
func TestFilter(t *testing.T) {
	want, err := os.ReadFile("testdata/filter.nft")
	if err != nil {
		t.Fatal(err)
	}
	if got := netplug.FilterFor(netplugtest.EveryRule(), netplugtest.EveryTransit(), netplugtest.EveryGate()).String(); got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
