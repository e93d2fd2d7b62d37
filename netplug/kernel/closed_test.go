package kernel

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"virtmesh/netplug"
	"virtmesh/netplug/netplugtest"
)

// TestBridgeWithoutAddress has guests on bridges that the host has no address on. They talk
// to one another and not to the host, whatever addresses of it they find: the thief sends
// through its second card, and what the host answers comes back by its first one.
func TestBridgeWithoutAddress(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	b := newBed(t)
	netplugtest.Run(t, "ip", "link", "add", "br-admin", "type", "bridge")
	netplugtest.Run(t, "ip", "addr", "add", "10.60.0.1/24", "dev", "br-admin")
	netplugtest.Run(t, "ip", "link", "set", "br-admin", "up")
	netplugtest.Serve(t, "0.0.0.0:9999", "secret")
	b.outside.Run("ip", "route", "add", "10.9.0.0/24", "via", "10.50.0.1")
	b.want.Bridges = append(b.want.Bridges, netplug.Bridge{Name: "br1"},
		netplug.Bridge{Name: "br-made", AllowExisting: true}, netplug.Bridge{Name: "br-admin", AllowExisting: true})
	one := b.card("one", "br1", 0x11)
	made := b.card("made", "br-made", 0x12)
	peer := b.card("peer", "br1", 0x13)
	admin := b.card("admin", "br-admin", 0x14)
	b.set()

	thief, _ := b.boot(b.want.Taps[0])
	for card, tap := range map[string]netplug.Tap{"br1": one, "br-made": made} {
		thief.AddCard(t, card, tap.Name, tap.MAC)
		thief.Run("sysctl", "-q", "-w", "net.ipv4.conf."+card+".rp_filter=0")
		// It asks as one that knows its address, and as one that looks whether it is free.
		for _, how := range [][]string{{"-s", "10.9.0.10"}, {"-D"}} {
			args := append([]string{"arping", "-c", "1", "-w", "1", "-I", card}, how...)
			if out, _ := thief.Try("busybox", append(args, "10.50.0.1")...); !strings.Contains(out, "Received 0 ") {
				t.Errorf("the host answers for its address on %s:\n%s", card, out)
			}
		}
		// Without the second wall the first one must hold.
		netplugtest.Run(t, "sysctl", "-q", "-w", "net.ipv4.conf."+card+".rp_filter=0")
		b.attack(thief, card)
	}

	neighbour := netplugtest.NewGuest(t, peer.Name, peer.MAC)
	neighbour.Run("ip", "addr", "add", "10.80.0.2/24", "dev", "eth0")
	thief.Run("ip", "addr", "add", "10.80.0.1/24", "dev", "br1")
	if !reaches(neighbour.Host, "10.80.0.1") {
		t.Error("guests on one bridge do not reach one another")
	}
	guest := netplugtest.NewGuest(t, admin.Name, admin.MAC)
	guest.Run("ip", "addr", "add", "10.60.0.2/24", "dev", "eth0")
	if got, err := guest.Get("10.60.0.1:9999", patience); got != "secret" {
		t.Errorf("on the administrator's bridge the guest gets %q: %v", got, err)
	}
}

// card wants a card for a guest on a bridge.
func (b *bed) card(vm, bridge string, n byte) netplug.Tap {
	tap := podTap(vm, net.HardwareAddr{2, 0, 0, 0, 0, n}, "10.9.0.99")
	tap.Bridge, tap.IPSpoofCheck, tap.Address = bridge, false, netip.Addr{}
	b.want.Taps = append(b.want.Taps, tap)
	return tap
}

// attack reaches for the host, and through it, by the bridge that the guest's card is named
// after. The guest knows the bridge's hardware address, as it would by ARP.
func (b *bed) attack(g *netplugtest.Guest, bridge string) {
	b.t.Helper()
	mac, err := os.ReadFile("/sys/class/net/" + bridge + "/address")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, addr := range []string{"10.50.0.1", "10.50.0.2"} {
		g.Run("ip", "neigh", "replace", addr, "lladdr", strings.TrimSpace(string(mac)), "dev", bridge)
		g.Run("ip", "route", "replace", addr+"/32", "dev", bridge, "src", "10.9.0.10")
	}
	if got, err := g.Get("10.50.0.1:9999", silence); err == nil {
		b.t.Errorf("a guest on %s gets %q from an address of the host", bridge, got)
	}
	if answers(g.Host, "10.50.0.2") {
		b.t.Errorf("a guest on %s gets out through the host", bridge)
	}
	for _, addr := range []string{"10.50.0.1", "10.50.0.2"} {
		g.Run("ip", "route", "del", addr+"/32", "dev", bridge)
	}
}
