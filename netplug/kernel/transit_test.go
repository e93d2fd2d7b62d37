package kernel

import (
	"net/netip"
	"testing"

	"virtmesh/netplug"
	"virtmesh/netplug/netplugtest"
)

// joinNetwork gives the host another network, with one machine on it at addr+1 that answers
// through the host. bridge, if not empty, is made for it, as container runtimes do.
func (b *bed) joinNetwork(card, bridge, addr string) *netplugtest.Host {
	b.t.Helper()
	own := netip.MustParsePrefix(addr)
	other := netplugtest.NewHost(b.t)
	netplugtest.Run(b.t, "ip", "link", "add", card, "type", "veth", "peer", "name", "eth0", "netns", other.PID())
	gateway := card
	if bridge != "" {
		netplugtest.Run(b.t, "ip", "link", "add", bridge, "type", "bridge")
		netplugtest.Run(b.t, "ip", "link", "set", card, "master", bridge)
		netplugtest.Run(b.t, "ip", "link", "set", bridge, "up")
		gateway = bridge
	}
	netplugtest.Run(b.t, "ip", "addr", "add", addr, "dev", gateway)
	netplugtest.Run(b.t, "ip", "link", "set", card, "up")
	other.Run("ip", "addr", "add", netip.PrefixFrom(own.Addr().Next(), own.Bits()).String(), "dev", "eth0")
	other.Run("ip", "link", "set", "eth0", "up")
	other.Run("ip", "route", "add", "default", "via", own.Addr().String())
	b.outside.Run("ip", "route", "add", own.Masked().String(), "via", "10.50.0.1")
	return other
}

// TestHostIsNoRouterForOthers has a host on a network of its own, as for storage, and with a
// container. A neighbour outside does not get to either through the host, although guests
// need the host to forward; the container gets out, and in if it is published.
func TestHostIsNoRouterForOthers(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	b := newBed(t)
	netplugtest.Run(t, "sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
	b.joinNetwork("st0", "", "10.60.0.1/24")
	container := b.joinNetwork("ct0", "docker0", "10.70.0.1/24")
	container.Serve("10.70.0.2:80", "published")
	b.set()
	for range 2 { // the second time as after a restart of the agent
		if res := b.set(); len(res.Plan.Steps) != 0 {
			t.Fatalf("the second Set changes:\n%s", res.Plan)
		}
	}
	g, _ := b.boot(b.want.Taps[0])
	if !reaches(g.Host, "10.50.0.2") || !reaches(g.Host, "10.60.0.2") {
		t.Error("the guest does not get out")
	}
	if !reaches(container, "10.50.0.2") {
		t.Error("the container does not get out")
	}
	for _, addr := range []string{"10.60.0.2", "10.70.0.2"} {
		if answers(b.outside, addr) {
			t.Errorf("the neighbour reaches %s through the host", addr)
		}
	}
	netplugtest.Run(t, "nft", "add table ip admin; add chain ip admin in { type nat hook prerouting priority dstnat; }; "+
		"add rule ip admin in tcp dport 30080 dnat to 10.70.0.2:80")
	if got, err := b.outside.Get("10.50.0.1:30080", patience); got != "published" {
		t.Errorf("the neighbour gets %q from the published port: %v", got, err)
	}
	b.want.Router = true
	b.set()
	if !reaches(b.outside, "10.60.0.2") {
		t.Error("the host does not forward by its administrator's wish")
	}
}

// TestRouterStaysRouter has a host that forwarded before netplug came.
func TestRouterStaysRouter(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	b := newBed(t)
	netplugtest.Run(t, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	b.joinNetwork("st0", "", "10.60.0.1/24")
	b.set()
	if res := b.set(); len(res.Plan.Steps) != 0 {
		t.Fatalf("the second Set changes:\n%s", res.Plan)
	}
	if !reaches(b.outside, "10.60.0.2") {
		t.Error("the router does not forward any more")
	}
	b.want = netplug.Want{}
	b.set()
}
