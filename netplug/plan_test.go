package netplug_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"virtmesh/netplug"
	"virtmesh/netplug/netplugtest"
)

// hand is what someone else set up on the host.
func hand() []netplug.Link {
	return []netplug.Link{
		uplink("up0"), uplink("up1"),
		{Name: "br-hand", Kind: netplug.KindBridge, MTU: 9000},
		{Name: "vm-hand", Kind: netplug.KindTap, MTU: 1500, Master: "br-hand"},
	}
}

const handLines = `link br-hand type bridge mtu 9000
link up0 type device mtu 1500 up
link up1 type device mtu 1500 up
link vm-hand type tap master br-hand mtu 1500
`

type state struct {
	name string
	want func(w *netplug.Want)
	// links beside those of hand that are then on the host, and those of hand that changed.
	links string
}

// TestWorlds sets one Want after the other on one host and compares the resulting links.
// After each, a second Set must change nothing.
func TestWorlds(t *testing.T) {
	k := netplugtest.NewFake(hand()...)
	p := newPlug(t, k, &servers{}, nil)
	for _, s := range slices.Concat(gateways(), switches()) {
		var w netplug.Want
		s.want(&w)
		if _, err := p.Set(t.Context(), w); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if got, want := linksOf(k.World()), overlay(handLines, s.links); got != want {
			t.Errorf("%s:\n got\n%s\nwant\n%s", s.name, got, want)
		}
		res, err := p.Set(t.Context(), w)
		if err != nil || len(res.Plan.Steps) > 0 {
			t.Errorf("%s: the second Set: %v\n%s", s.name, err, res.Plan)
		}
	}
}

// gateways are Wants with bridges that have an address.
func gateways() []state {
	return []state{
		{"a gateway", func(w *netplug.Want) { w.Bridges = []netplug.Bridge{podBridge()} },
			`link vm-pod type bridge mtu 1500 address 02:9f:13:e4:50:d1 gated up addr 10.9.0.1/24 alias "virtmesh:bridge:forwarding,uplink="`},
		{"another address and MTU, and a guest", func(w *netplug.Want) {
			b := podBridge()
			b.Address, b.MTU = netip.MustParsePrefix("10.7.0.1/16"), 1400
			w.Bridges = []netplug.Bridge{b}
			w.Taps = []netplug.Tap{tapOf("vm-pod", "a", 1)}
		}, `link vm-pod type bridge mtu 1400 address 02:9f:13:e4:50:d1 gated up addr 10.7.0.1/16 alias "virtmesh:bridge:forwarding,uplink="
link vm-a type tap master vm-pod mtu 1400 address fe:00:00:00:00:01 up alias "virtmesh:tap:ns/a/net0"`},
	}
}

// switches are Wants with bridges that have no address.
func switches() []state {
	br1 := func(change func(b *netplug.Bridge)) func(w *netplug.Want) {
		return func(w *netplug.Want) {
			b := netplug.Bridge{Name: "br1"}
			change(&b)
			w.Bridges = []netplug.Bridge{b}
			w.Taps = []netplug.Tap{tapOf("br1", "a", 1)}
		}
	}
	return []state{
		{"the guest on the bridge of someone else", func(w *netplug.Want) {
			w.Bridges = []netplug.Bridge{{Name: "br-hand", AllowExisting: true, MTU: 1300, Uplink: "up0"}}
			w.Taps = []netplug.Tap{tapOf("br-hand", "a", 1)}
			w.Taps[0].MTU, w.Taps[0].Isolated = 8000, true
		}, `link vm-a type tap master br-hand mtu 8000 address fe:00:00:00:00:01 isolated up alias "virtmesh:tap:ns/a/net0"`},
		{"a bridge with an uplink", br1(func(b *netplug.Bridge) { b.Uplink = "up0" }),
			`link br1 type bridge mtu 1500 gated up alias "virtmesh:bridge:uplink=up0"
link up0 type device master br1 mtu 1500 up
link vm-a type tap master br1 mtu 1500 address fe:00:00:00:00:01 up alias "virtmesh:tap:ns/a/net0"`},
		{"another uplink, guests kept apart", br1(func(b *netplug.Bridge) { b.Uplink, b.Isolated = "up1", true }),
			`link br1 type bridge mtu 1500 gated up alias "virtmesh:bridge:uplink=up1"
link up1 type device master br1 mtu 1500 up
link vm-a type tap master br1 mtu 1500 address fe:00:00:00:00:01 isolated up alias "virtmesh:tap:ns/a/net0"`},
		{"a VLAN of the uplink", br1(func(b *netplug.Bridge) { b.Uplink, b.UplinkVLAN = "up1", 100 }),
			`link br1 type bridge mtu 1500 gated up alias "virtmesh:bridge:uplink=vl-mhxhjelgew2q"
link vm-a type tap master br1 mtu 1500 address fe:00:00:00:00:01 up alias "virtmesh:tap:ns/a/net0"
link vl-mhxhjelgew2q type vlan link up1 id 100 master br1 mtu 1500 up alias "virtmesh:vlan:up1"`},
		{"guests in VLANs", func(w *netplug.Want) {
			w.Bridges = []netplug.Bridge{{Name: "br1", Uplink: "up1", VLANFiltering: true}}
			w.Taps = []netplug.Tap{tapOf("br1", "a", 1), tapOf("br1", "b", 2), tapOf("br1", "c", 3)}
			w.Taps[0].VLAN = 7
			w.Taps[1].VLAN, w.Taps[1].PreserveDefaultVLAN = 8, true
			w.Taps[2].LinkDown = true
		}, `link br1 type bridge mtu 1500 vlan_filtering gated up alias "virtmesh:bridge:uplink=up1"
link up1 type device master br1 mtu 1500 up vid 1 pvid untagged vid 7 vid 8
link vm-a type tap master br1 mtu 1500 address fe:00:00:00:00:01 up vid 7 pvid untagged alias "virtmesh:tap:ns/a/net0"
link vm-b type tap master br1 mtu 1500 address fe:00:00:00:00:02 up vid 1 untagged vid 8 pvid untagged alias "virtmesh:tap:ns/b/net0"
link vm-c type tap master br1 mtu 1500 address fe:00:00:00:00:03 vid 1 pvid untagged alias "virtmesh:tap:ns/c/net0"`},
		{"other VLANs, owner and queues", func(w *netplug.Want) {
			w.Bridges = []netplug.Bridge{{Name: "br1", VLANFiltering: true}}
			w.Taps = []netplug.Tap{tapOf("br1", "a", 9), tapOf("br1", "b", 2)}
			w.Taps[0].VM, w.Taps[0].VLAN = "renamed", 9
			w.Taps[1].Owner, w.Taps[1].Group, w.Taps[1].Queues = 64055, 108, 2
		}, `link br1 type bridge mtu 1500 vlan_filtering gated up alias "virtmesh:bridge:uplink="
link vm-a type tap master br1 mtu 1500 address fe:00:00:00:00:09 up vid 9 pvid untagged alias "virtmesh:tap:ns/renamed/net0"
link vm-b type tap master br1 mtu 1500 address fe:00:00:00:00:02 user 64055 group 108 multi_queue up vid 1 pvid untagged alias "virtmesh:tap:ns/b/net0"`},
		{"nothing", func(*netplug.Want) {}, ""},
	}
}

// linksOf prints the links, without parameters and filter.
func linksOf(w netplug.World) string { return netplug.World{Links: w.Links}.String() }

// overlay replaces the lines of the same links, in order.
func overlay(base, over string) string {
	byName := map[string]string{}
	for line := range strings.Lines(base + over) {
		byName[strings.Fields(line)[1]] = strings.TrimSpace(line)
	}
	var out []string
	for _, line := range byName {
		out = append(out, line)
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(strings.Fields(a)[1], strings.Fields(b)[1]) })
	return strings.Join(out, "\n") + "\n"
}

// TestHeldOpen changes the want for a tap that a machine holds open.
func TestHeldOpen(t *testing.T) {
	k := netplugtest.NewFake()
	p := newPlug(t, k, &servers{}, nil)
	w := netplug.Want{Bridges: []netplug.Bridge{{Name: "br1"}}, Taps: []netplug.Tap{tapOf("br1", "a", 1)}}
	set := func() netplug.Result {
		t.Helper()
		res, err := p.Set(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	set()
	carrier := func(on bool) {
		k.Change(func(w *netplug.World) {
			for i := range w.Links {
				if w.Links[i].Name == "vm-a" {
					w.Links[i].Carrier = on
				}
			}
		})
	}
	carrier(true)
	w.Taps[0].Queues, w.Taps[0].MTU = 4, 1400
	if got, want := set().Plan.String(), "ip link set vm-a mtu 1400\n"; got != want {
		t.Errorf("a tap in use is changed by\n%s, want\n%s", got, want)
	}
	w = netplug.Want{}
	res := set()
	if !slices.Equal(res.Plan.Busy, []string{"vm-a", "br1"}) {
		t.Errorf("busy are %v", res.Plan.Busy)
	}
	if load, ok := res.Plan.Steps[0].Op.(netplug.LoadFilter); !ok || !strings.Contains(load.Ruleset.String(), `iifname "vm-*" drop`) {
		t.Errorf("as long as it is in use, it is not cut off:\n%s", res.Plan)
	}
	if res := set(); len(res.Plan.Steps) != 0 {
		t.Errorf("as long as it is in use, a Set does\n%s", res.Plan)
	}
	carrier(false)
	plan := set().Plan
	last := plan.Steps[len(plan.Steps)-1].Op
	if load, ok := last.(netplug.LoadFilter); !ok || !strings.HasPrefix(plan.String(), "ip link del vm-a\nip link del br1\n") || strings.Contains(load.Ruleset.String(), "chain") {
		t.Errorf("when it is not any more, a Set does\n%s", plan)
	}
	if res := set(); len(res.Plan.Steps) != 0 {
		t.Errorf("then there is still to do\n%s", res.Plan)
	}
}

func TestBlocked(t *testing.T) {
	withAddr := uplink("up2")
	withAddr.Addrs = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}
	taken := uplink("up3")
	taken.Master = "br-hand"
	for _, tc := range []struct {
		name    string
		bridge  netplug.Bridge
		tap     func(*netplug.Tap)
		subject string
		want    string
	}{
		{"no uplink", netplug.Bridge{Name: "br1", Uplink: "none"}, nil, "bridge br1", "its uplink none does not exist"},
		{"uplink with address", netplug.Bridge{Name: "br1", Uplink: "up2"}, nil, "bridge br1", "carries the address 192.0.2.1/24"},
		{"uplink of another bridge", netplug.Bridge{Name: "br1", Uplink: "up3"}, nil, "bridge br1", "already belongs to br-hand"},
		{"bridge as uplink", netplug.Bridge{Name: "br1", Uplink: "br-hand"}, nil, "bridge br1", "cannot be an uplink"},
		{"bridge of another", netplug.Bridge{Name: "br-hand"}, nil, "bridge br-hand", "did not make"},
		{"no bridge", netplug.Bridge{Name: "up0", AllowExisting: true}, nil, "bridge up0", "of type device"},
		{"tap of another", netplug.Bridge{Name: "br1"}, func(t *netplug.Tap) { t.Name = "vm-hand" }, "tap vm-hand", "did not make"},
		{"VLAN on a bridge that filters none", netplug.Bridge{Name: "br-hand", AllowExisting: true, VLANFiltering: true},
			func(t *netplug.Tap) { t.VLAN = 7 }, "tap vm-a", "br-hand does not filter VLANs"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := netplugtest.NewFake(append(hand(), withAddr, taken)...)
			p := newPlug(t, k, &servers{}, nil)
			tap := tapOf(tc.bridge.Name, "a", 1)
			if tc.tap != nil {
				tc.tap(&tap)
			}
			w := netplug.Want{
				Bridges: []netplug.Bridge{tc.bridge, {Name: "br-good"}},
				Taps:    []netplug.Tap{tap, tapOf("br-good", "good", 2)},
			}
			res, err := p.Set(t.Context(), w)
			got := res.Failed[tc.subject]
			if err == nil || got == nil || !strings.Contains(got.Error(), tc.want) {
				t.Errorf("%s fails with %v, want %q", tc.subject, got, tc.want)
			}
			if res.Tap(tap.Name) == nil || res.Tap("vm-good") != nil {
				t.Errorf("taps fail with %v and %v", res.Tap(tap.Name), res.Tap("vm-good"))
			}
			for _, op := range k.Done() {
				if strings.Contains(op.String(), " up2") || strings.Contains(op.String(), "hand") {
					t.Errorf("does %s", op)
				}
			}
		})
	}
}

func TestKernelWithoutVLANs(t *testing.T) {
	k := netplugtest.NewFake(uplink("up0")).WithoutVLANs()
	p := newPlug(t, k, &servers{}, nil)
	w := netplug.Want{
		Bridges: []netplug.Bridge{
			{Name: "br1", VLANFiltering: true},
			{Name: "br2", Uplink: "up0", UplinkVLAN: 5},
			podBridge(),
		},
		Taps: []netplug.Tap{tapOf("br1", "a", 1), tapOf("br2", "b", 2), tapOf("vm-pod", "c", 3)},
	}
	res, err := p.Set(t.Context(), w)
	if !errors.Is(err, netplug.ErrUnsupported) {
		t.Fatalf("error is %v", err)
	}
	for _, tap := range []string{"vm-a", "vm-b"} {
		if !errors.Is(res.Tap(tap), netplug.ErrUnsupported) {
			t.Errorf("tap %s fails with %v", tap, res.Tap(tap))
		}
	}
	if res.Tap("vm-c") != nil {
		t.Errorf("tap vm-c fails with %v", res.Tap("vm-c"))
	}
}

// TestOrder checks that no tap is up, and nothing forwarded, before the filter is loaded.
func TestOrder(t *testing.T) {
	w := netplug.Want{Bridges: []netplug.Bridge{podBridge()}, Taps: []netplug.Tap{tapOf("vm-pod", "a", 1)}}
	want := `ip link add vm-pod type bridge
ip link set vm-pod address 02:9f:13:e4:50:d1
sysctl -w net/ipv6/conf/vm-pod/disable_ipv6=1
sysctl -w net/ipv4/conf/vm-pod/rp_filter=1
sysctl -w net/ipv4/conf/vm-pod/arp_ignore=1
ip addr add 10.9.0.1/24 dev vm-pod
ip link set vm-pod up
nft -f ` + netplug.FilterFor(w, netplug.Transit{Closed: true}, []string{"vm-a"}).Fingerprint() + `
tc filter replace dev vm-pod ingress bpf direct-action virtmesh
sysctl -w net/ipv4/ip_forward=1
ip tuntap add vm-a mode tap vnet_hdr
ip link set vm-a address fe:00:00:00:00:01
sysctl -w net/ipv6/conf/vm-a/disable_ipv6=1
ip link set vm-a master vm-pod
ip link set vm-a up
`
	if got := netplug.PlanFor(w, netplug.World{}).String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestHostsBridgesAreNotClosed checks that the filter closes the host on bridges that
// netplug made, and not on those of the administrator, who may be connected through one.
func TestHostsBridgesAreNotClosed(t *testing.T) {
	ours := netplug.Link{Name: "br-x", Kind: netplug.KindBridge, Alias: "virtmesh:bridge:uplink="}
	hosts := netplug.Link{Name: "br-x", Kind: netplug.KindBridge, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}
	for _, tc := range []struct {
		name   string
		bridge netplug.Bridge
		links  []netplug.Link
		closed bool
	}{
		{"to be made", netplug.Bridge{}, nil, true},
		{"to be made since the host has none", netplug.Bridge{AllowExisting: true}, nil, true},
		{"made since the host had none", netplug.Bridge{AllowExisting: true}, []netplug.Link{ours}, true},
		{"the host's", netplug.Bridge{AllowExisting: true}, []netplug.Link{hosts}, false},
		{"the host's, where ours was wanted", netplug.Bridge{}, []netplug.Link{hosts}, false},
		{"the host's, where a gateway was wanted", podBridge(), []netplug.Link{hosts}, false},
	} {
		tc.bridge.Name = "br-x"
		for _, s := range netplug.PlanFor(netplug.Want{Bridges: []netplug.Bridge{tc.bridge}}, netplug.World{Links: tc.links}).Steps {
			if load, ok := s.Op.(netplug.LoadFilter); ok {
				if got := strings.Contains(load.Ruleset.String(), `iifname "br-x"`); got != tc.closed {
					t.Errorf("%s: closed is %v:\n%s", tc.name, got, load.Ruleset)
				}
			}
		}
	}
}

// TestTransit checks when the host is closed to traffic of others: whenever it forwards only
// because netplug needs it, also after a restart, and never by the administrator's wish.
func TestTransit(t *testing.T) {
	const closing = "oifname \"br-lan\" accept\n\t\tdrop"
	lan := netplug.Link{Name: "br-lan", Kind: netplug.KindBridge}
	port := netplug.Link{Name: "up0", Kind: netplug.KindDevice, Master: "br-lan"}
	marked := netplug.Link{Name: "vm-pod", Kind: netplug.KindBridge, Alias: "virtmesh:bridge:forwarding,uplink="}
	unmarked := netplug.Link{Name: "vm-pod", Kind: netplug.KindBridge, Alias: "virtmesh:bridge:uplink="}
	for _, tc := range []struct {
		name    string
		forward string
		links   []netplug.Link
		router  bool
		closed  bool
	}{
		{"first start", "0", nil, false, true},
		{"restart", "1", []netplug.Link{marked}, false, true},
		{"somebody turned it off", "0", []netplug.Link{unmarked}, false, true},
		{"first start on a router", "1", nil, false, false},
		{"restart on a router", "1", []netplug.Link{unmarked}, false, false},
		{"made a router", "1", []netplug.Link{marked}, true, false},
	} {
		want := netplug.Want{Bridges: []netplug.Bridge{podBridge()}, Router: tc.router}
		have := netplug.World{Links: append(tc.links, lan, port), Sysctls: map[string]string{"net/ipv4/ip_forward": tc.forward}}
		plan := netplug.PlanFor(want, have)
		var rules, alias string
		for _, s := range plan.Steps {
			switch op := s.Op.(type) {
			case netplug.LoadFilter:
				rules = op.Ruleset.String()
			case netplug.AddBridge:
				alias = op.Alias
			case netplug.SetAlias:
				alias = op.Alias
			}
		}
		if got := strings.Contains(rules, closing); got != tc.closed {
			t.Errorf("%s: closed is %v:\n%s", tc.name, got, rules)
		}
		if turnsOn := tc.forward == "0"; turnsOn != strings.Contains(alias, "forwarding") {
			t.Errorf("%s: the bridge is marked %q", tc.name, alias)
		}
	}
}

func TestTapName(t *testing.T) {
	a := netplug.TapName("default", "vm", "net0")
	if len(a) != 15 || !strings.HasPrefix(a, netplug.TapPrefix) {
		t.Errorf("name is %q", a)
	}
	for _, other := range []string{
		netplug.TapName("default", "vm", "net1"), netplug.TapName("default", "vmn", "et0"), netplug.TapName("defaultv", "m", "net0"),
	} {
		if other == a {
			t.Errorf("%q names two taps", a)
		}
	}
	// Changing it would cut off every machine at the upgrade of its host.
	if want := "vm-jbgy6x5f24dk"; a != want {
		t.Errorf("name is %q, want %q", a, want)
	}
}
