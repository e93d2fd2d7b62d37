package kernel

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/netplug"
	"virtmesh/netplug/netplugtest"
)

// silence is how long a test waits for what must not come.
const silence = 700 * time.Millisecond

// patience is how long a test waits for what must come, on a busy machine.
const patience = 20 * time.Second

// bed is a host with guests on it and a world outside that knows nothing of them.
type bed struct {
	t       *testing.T
	kernel  *Kernel
	plug    *netplug.Plug
	outside *netplugtest.Host
	want    netplug.Want
}

var (
	macA = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x0a}
	macB = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x0b}
)

// newBed makes the host, with guests a and b wanted on a bridge with NAT, DHCP and DNS.
func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t: t}
	b.kernel, b.outside = hostWithUplink(t)
	netplugtest.Run(t, "ip", "addr", "add", "10.50.0.1/24", "dev", "up0")
	netplugtest.Run(t, "ip", "link", "set", "up0", "up")
	b.outside.Run("ip", "addr", "add", "10.50.0.2/24", "dev", "eth0")
	b.outside.Run("ip", "link", "set", "eth0", "up")
	cfg := netplug.DefaultConfig()
	cfg.Kernel = b.kernel
	cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	cfg.Registerer = prometheus.NewRegistry()
	cfg.ResolvConf = filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(cfg.ResolvConf, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if b.plug, err = netplug.New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.plug.Close(); err != nil {
			t.Error(err)
		}
	})
	b.want = netplug.Want{
		Bridges: []netplug.Bridge{{
			Name: "vm-pod", MTU: 1400, Address: netip.MustParsePrefix("10.9.0.1/24"),
			NAT: true, DNS: true, DHCP: &netplug.DHCP{Domain: "vm.example"},
		}},
		Taps: []netplug.Tap{
			podTap("a", macA, "10.9.0.10"),
			podTap("b", macB, "10.9.0.11"),
		},
		DNS: netplug.DNS{Domain: "vm.example", Records: map[string][]netip.Addr{
			"b.default": {netip.MustParseAddr("10.9.0.11")},
		}},
	}
	return b
}

func podTap(vm string, mac net.HardwareAddr, addr string) netplug.Tap {
	return netplug.Tap{
		Name: netplug.TapName("default", vm, "net0"), Namespace: "default", VM: vm, Interface: "net0",
		Bridge: "vm-pod", MAC: mac, Address: netip.MustParseAddr(addr), Hostname: vm,
		MACSpoofCheck: true, IPSpoofCheck: true,
	}
}

func (b *bed) set() netplug.Result {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	res, err := b.plug.Set(ctx, b.want)
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}

// udhcpScript configures the card as a DHCP client's script does, and keeps what it was
// told.
const udhcpScript = `#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip link set "$interface" mtu "$mtu"
ip route add default via "$router"
echo "ip=$ip mask=$mask router=$router dns=$dns domain=$domain search=$search hostname=$hostname mtu=$mtu lease=$lease" > "$OUT"
`

// boot starts the guest on a wanted tap and lets it get its address. It returns what DHCP
// told it.
func (b *bed) boot(tap netplug.Tap) (*netplugtest.Guest, string) {
	b.t.Helper()
	g := netplugtest.NewGuest(b.t, tap.Name, tap.MAC)
	script := filepath.Join(b.t.TempDir(), "script")
	out := script + ".out"
	if err := os.WriteFile(script, []byte(udhcpScript), 0o700); err != nil {
		b.t.Fatal(err)
	}
	cmd := g.Command("busybox", "udhcpc", "-i", "eth0", "-f", "-n", "-q", "-t", "20", "-T", "1", "-O", "mtu", "-O", "hostname", "-O", "search", "-s", script)
	cmd.Env = append(os.Environ(), "OUT="+out)
	if log, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("udhcpc: %v\n%s\n%s", err, log, netplugtest.Run(b.t, "nft", "list", "ruleset"))
	}
	told, err := os.ReadFile(out)
	if err != nil {
		b.t.Fatal(err)
	}
	return g, strings.TrimSpace(string(told))
}

// reaches waits for an answer. Since the kernel takes up to a second to let frames through
// a port that was just opened, the first ones may be lost.
func reaches(h *netplugtest.Host, addr string) bool {
	_, err := h.Try("ping", "-c", "1", "-i", "0.2", "-w", "20", addr)
	return err == nil
}

// answers says whether an answer comes at once, as it would if there were a way.
func answers(h *netplugtest.Host, addr string) bool {
	_, err := h.Try("ping", "-c", "3", "-i", "0.2", "-W", "1", addr)
	return err == nil
}

func TestGuestsOnAHost(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	b := newBed(t)
	if res := b.set(); len(res.Plan.Steps) == 0 {
		t.Fatal("the first Set has nothing to do")
	}
	if res := b.set(); len(res.Plan.Steps) != 0 {
		t.Fatalf("the second Set changes:\n%s", res.Plan)
	}
	ga, told := b.boot(b.want.Taps[0])
	want := "ip=10.9.0.10 mask=24 router=10.9.0.1 dns=10.9.0.1 domain=vm.example search=default.vm.example vm.example hostname=a mtu=1400 lease=3600"
	if told != want {
		t.Errorf("DHCP told\n%s, want\n%s", told, want)
	}
	gb, _ := b.boot(b.want.Taps[1])
	for name, addr := range map[string]string{"the gateway": "10.9.0.1", "its neighbour": "10.9.0.11", "the world through NAT": "10.50.0.2"} {
		if !reaches(ga.Host, addr) {
			t.Errorf("the guest does not reach %s", name)
		}
	}
	b.names(ga)
	b.closedToOutside(gb)
	if res := b.set(); len(res.Plan.Steps) != 0 {
		t.Errorf("a Set with guests on changes:\n%s", res.Plan)
	}
	// As a restart of the host's firewall does.
	netplugtest.Run(t, "nft", "flush", "ruleset")
	if res := b.set(); len(res.Plan.Steps) != 1 || !reaches(ga.Host, "10.50.0.2") {
		t.Errorf("after the packet filter was flushed, a Set does\n%s", res.Plan)
	}
	b.removal(ga, gb)
}

// names resolves through the gateway.
func (b *bed) names(g *netplugtest.Guest) {
	b.t.Helper()
	out, err := g.Try("busybox", "nslookup", "b.default.vm.example", "10.9.0.1")
	if err != nil || !strings.Contains(out, "10.9.0.11") {
		b.t.Errorf("name of the neighbour: %v\n%s", err, out)
	}
	begin := time.Now()
	out, err = g.Try("busybox", "nslookup", "example.org", "10.9.0.1")
	if err == nil || !strings.Contains(out, "SERVFAIL") || time.Since(begin) > patience {
		b.t.Errorf("foreign name without upstream, after %s: %v\n%s", time.Since(begin), err, out)
	}
}

// closedToOutside makes sure that NAT is not a way in, unless the administrator redirects
// what comes to the host.
func (b *bed) closedToOutside(g *netplugtest.Guest) {
	b.t.Helper()
	g.Serve("10.9.0.11:80", "hello")
	b.outside.Run("ip", "route", "add", "10.9.0.0/24", "via", "10.50.0.1")
	if got, err := b.outside.Get("10.9.0.11:80", silence); err == nil {
		b.t.Errorf("the world gets %q from the guest directly", got)
	}
	netplugtest.Run(b.t, "nft", "add table ip admin; add chain ip admin in { type nat hook prerouting priority dstnat; }; "+
		"add rule ip admin in tcp dport 30080 dnat to 10.9.0.11:80")
	if got, err := b.outside.Get("10.50.0.1:30080", patience); got != "hello" {
		b.t.Errorf("the world gets %q from a port that the administrator redirects: %v", got, err)
	}
}

// removal takes machines away: a tap in use stays, cut off, and goes with its machine.
func (b *bed) removal(ga, gb *netplugtest.Guest) {
	t := b.t
	t.Helper()
	a := b.want.Taps[0].Name
	netplugtest.Run(t, "ip", "tuntap", "add", "vm-foreign", "mode", "tap")
	b.want.Taps = b.want.Taps[1:]
	if res := b.set(); !slices.Equal(res.Plan.Busy, []string{a}) {
		t.Errorf("busy are %v, want %s", res.Plan.Busy, a)
	}
	if answers(ga.Host, "10.9.0.1") {
		t.Error("a machine that is not wanted still reaches the gateway")
	}
	ga.Stop()
	b.set()
	if links := netplugtest.Run(t, "ip", "-o", "link"); strings.Contains(links, a) || !strings.Contains(links, "vm-foreign") {
		t.Errorf("after the machine is gone:\n%s", links)
	}
	if !reaches(gb.Host, "10.9.0.1") {
		t.Error("the other machine lost its network")
	}
	// It is the last one, so no tap is wanted any more, and then nothing at all.
	for _, want := range []netplug.Want{{Bridges: b.want.Bridges}, {}} {
		b.want = want
		b.set()
		if answers(gb.Host, "10.9.0.1") {
			t.Errorf("with %d bridges and no tap wanted, a machine still reaches the gateway", len(want.Bridges))
		}
	}
	gb.Stop()
	b.set()
	if res := b.set(); len(res.Plan.Steps) != 0 {
		t.Errorf("a Set of nothing changes:\n%s", res.Plan)
	}
	if links := netplugtest.Run(t, "ip", "-o", "link"); strings.Contains(links, "vm-pod") {
		t.Errorf("after all machines are gone:\n%s", links)
	}
	if rules := netplugtest.Run(t, "nft", "list", "ruleset"); strings.Contains(rules, "virtmesh") {
		t.Errorf("after all machines are gone:\n%s", rules)
	}
}

// TestGuestOnUplink has a guest on a bridge that joins it to the world outside, as a
// network attachment does.
func TestGuestOnUplink(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	b := newBed(t)
	tap := podTap("a", macA, "10.50.0.10")
	tap.Bridge, tap.IPSpoofCheck, tap.Address = "br1", false, netip.Addr{}
	b.want = netplug.Want{Bridges: []netplug.Bridge{{Name: "br1", Uplink: "up0"}}, Taps: []netplug.Tap{tap}}
	if _, err := b.plug.Set(t.Context(), b.want); err == nil || !strings.Contains(err.Error(), "carries the address 10.50.0.1/24") {
		t.Fatalf("an uplink with an address: %v", err)
	}
	netplugtest.Run(t, "ip", "addr", "flush", "dev", "up0")
	b.set()
	if res := b.set(); len(res.Plan.Steps) != 0 {
		t.Fatalf("the second Set changes:\n%s", res.Plan)
	}
	g := netplugtest.NewGuest(t, tap.Name, macA)
	g.Run("ip", "addr", "add", "10.50.0.10/24", "dev", "eth0")
	if !reaches(g.Host, "10.50.0.2") {
		t.Error("the guest does not reach the world")
	}
	g.Run("ip", "link", "set", "eth0", "address", macB.String())
	if answers(g.Host, "10.50.0.2") {
		t.Error("the guest gets out with another card's address")
	}
	g.Run("ip", "link", "set", "eth0", "address", macA.String())
	g.Stop()
	b.want = netplug.Want{}
	b.set()
	if link := netplugtest.Run(t, "ip", "link", "show", "up0"); strings.Contains(link, "master") {
		t.Errorf("the uplink is not given back: %s", link)
	}
}

// TestHostileGuest tries what a guest must not get through with.
func TestHostileGuest(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	b := newBed(t)
	b.want.Protected = []netip.Prefix{netip.MustParsePrefix("10.50.0.3/32"), netip.MustParsePrefix("10.50.0.4/31")}
	b.want.Allowed = []netip.Prefix{netip.MustParsePrefix("10.50.0.5/32")}
	for _, addr := range []string{"10.50.0.3/24", "10.50.0.5/24"} {
		b.outside.Run("ip", "addr", "add", addr, "dev", "eth0")
	}
	b.set()
	g, _ := b.boot(b.want.Taps[0])
	b.boot(b.want.Taps[1])
	netplugtest.Serve(t, "0.0.0.0:9999", "secret")
	for _, addr := range []string{"10.9.0.1:9999", "10.50.0.1:9999"} {
		if got, err := g.Get(addr, silence); err == nil {
			t.Errorf("the guest gets %q from the host's port %s", got, addr)
		}
	}
	if got, err := b.outside.Get("10.50.0.1:9999", patience); got != "secret" {
		t.Errorf("the port to be guarded says %q: %v", got, err)
	}
	if answers(g.Host, "10.50.0.3") || !reaches(g.Host, "10.50.0.2") {
		t.Error("the guest reaches a protected network, or nothing at all")
	}
	if !reaches(g.Host, "10.50.0.5") {
		t.Error("the guest does not reach what is allowed within a protected network")
	}
	b.redirects(g)
	if out := netplugtest.Run(t, "ip", "-6", "addr", "show", "dev", "vm-pod"); out != "" {
		t.Errorf("the host has IPv6 addresses on the guests' bridge:\n%s", out)
	}
	b.otherAddresses(g)
}

// redirects reaches for what the administrator redirects: from the host's own address and
// from a foreign one, to a protected address and to others.
func (b *bed) redirects(g *netplugtest.Guest) {
	b.t.Helper()
	for _, addr := range []string{"10.50.0.2:80", "10.50.0.3:80", "10.50.0.5:80"} {
		b.outside.Serve(addr, addr)
	}
	netplugtest.Run(b.t, "nft", "add table ip admin; add chain ip admin in { type nat hook prerouting priority dstnat; }; "+
		"add rule ip admin in ip daddr 10.50.0.1 tcp dport 30080 dnat to 10.50.0.2:80; "+
		"add rule ip admin in ip daddr 10.50.0.9 tcp dport 80 dnat to 10.50.0.3:80; "+
		"add rule ip admin in ip daddr 10.50.0.9 tcp dport 81 dnat to 10.50.0.5:80")
	for _, addr := range []string{"10.50.0.1:30080", "10.50.0.9:80"} {
		if got, err := g.Get(addr, silence); err == nil {
			b.t.Errorf("the guest gets %q from %s, which is redirected", got, addr)
		}
	}
	if got, err := g.Get("10.50.0.9:81", patience); got != "10.50.0.5:80" {
		b.t.Errorf("the guest gets %q from a port that is redirected to an allowed address: %v", got, err)
	}
}

// otherAddresses uses addresses that are not the guest's.
func (b *bed) otherAddresses(g *netplugtest.Guest) {
	t := b.t
	t.Helper()
	g.Run("ip", "addr", "add", "10.9.0.99/24", "dev", "eth0")
	if _, err := g.Try("ping", "-c", "1", "-W", "1", "-I", "10.9.0.99", "10.9.0.1"); err == nil {
		t.Error("the guest gets through with another address")
	}
	// Claiming the neighbour's address does not get into the host's table.
	if err := os.WriteFile("/proc/sys/net/ipv4/neigh/vm-pod/locktime", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	netplugtest.Run(t, "ping", "-c", "1", "-W", "5", "10.9.0.11")
	g.Run("ip", "addr", "add", "10.9.0.11/32", "dev", "eth0")
	g.Run("busybox", "arping", "-c", "2", "-A", "-I", "eth0", "10.9.0.11")
	g.Run("ip", "addr", "del", "10.9.0.11/32", "dev", "eth0")
	if table := netplugtest.Run(t, "ip", "neigh", "show", "10.9.0.11"); !strings.Contains(table, macB.String()) {
		t.Errorf("the neighbour's address now belongs to: %s", table)
	}
	// The lease of another card is not given out.
	other := net.HardwareAddr{0x02, 0, 0, 0, 0, 0x0b}
	g.Run("ip", "link", "set", "eth0", "address", other.String())
	if out, err := g.Try("busybox", "udhcpc", "-i", "eth0", "-f", "-n", "-q", "-t", "2", "-T", "1", "-s", "/bin/true"); err == nil {
		t.Errorf("the guest gets the lease of another:\n%s", out)
	}
	if answers(g.Host, "10.9.0.1") {
		t.Error("the guest gets through with the card of another")
	}
	g.Run("ip", "link", "set", "eth0", "address", macA.String())
	g.Run("ip", "addr", "del", "10.9.0.99/24", "dev", "eth0")
	if !reaches(g.Host, "10.9.0.1") {
		t.Error("the guest does not get through with its own address any more")
	}
}
