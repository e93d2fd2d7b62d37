package netplugtest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"virtmesh/netplug"
)

// TestKernel is the test suite that every netplug.Kernel must pass. The namespace of the
// kernel must be empty except for the link uplink, which the suite may use.
func TestKernel(t *testing.T, k netplug.Kernel, uplink string) {
	s := suite{k: k, uplink: uplink}
	t.Run("BridgeAndTap", s.bridgeAndTap)
	t.Run("Gate", s.gate)
	t.Run("Uplink", s.uplinkPort)
	t.Run("Filter", s.filter)
	t.Run("WatchFilter", s.watchFilter)
	t.Run("VLANs", s.vlans)
	t.Run("Errors", s.errors)
}

type suite struct {
	k      netplug.Kernel
	uplink string
}

func (s suite) do(t *testing.T, ops ...netplug.Op) {
	t.Helper()
	for _, op := range ops {
		if err := s.k.Do(t.Context(), op); err != nil {
			t.Fatalf("%s: %v", op, err)
		}
	}
}

func (s suite) world(t *testing.T, sysctls ...string) netplug.World {
	t.Helper()
	w, err := s.k.Observe(t.Context(), sysctls)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// line returns the printed form of a link; empty if there is no such link.
func (s suite) line(t *testing.T, name string) string {
	t.Helper()
	for _, l := range s.world(t).Links {
		if l.Name == name {
			return l.String()
		}
	}
	return ""
}

func (s suite) expect(t *testing.T, name, want string) {
	t.Helper()
	if got := s.line(t, name); got != want {
		t.Errorf("link %s\n got %q\nwant %q", name, got, want)
	}
}

func (s suite) bridgeAndTap(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	s.do(t,
		netplug.AddBridge{Name: "br-a", Alias: "virtmesh:bridge:"},
		netplug.SetMAC{Link: "br-a", MAC: mac},
		netplug.SetMTU{Link: "br-a", MTU: 1400},
		netplug.SetSysctl{Key: "net/ipv6/conf/br-a/disable_ipv6", Value: "1", Optional: true},
		netplug.AddAddr{Link: "br-a", Addr: netip.MustParsePrefix("10.9.0.1/24")},
		netplug.SetUp{Link: "br-a", Up: true},
		netplug.AddTap{Name: "vm-a", Alias: "virtmesh:tap:a/b/c", Owner: 64055, Group: 108},
		netplug.SetMAC{Link: "vm-a", MAC: net.HardwareAddr{0xfe, 0, 0, 0, 0, 1}},
		netplug.SetMTU{Link: "vm-a", MTU: 1400},
		netplug.SetMaster{Link: "vm-a", Master: "br-a"},
		netplug.SetIsolated{Link: "vm-a", On: true},
		netplug.SetSysctl{Key: "net/ipv6/conf/vm-a/disable_ipv6", Value: "1", Optional: true},
		netplug.SetUp{Link: "vm-a", Up: true},
		netplug.AddTap{Name: "vm-b", Alias: "virtmesh:tap:d/e/f", MultiQueue: true},
		netplug.SetMAC{Link: "vm-b", MAC: mac},
	)
	s.expect(t, "br-a", `link br-a type bridge mtu 1400 address 02:00:00:00:00:01 up addr 10.9.0.1/24 alias "virtmesh:bridge:"`)
	s.expect(t, "vm-a", `link vm-a type tap master br-a mtu 1400 address fe:00:00:00:00:01 user 64055 group 108 isolated up alias "virtmesh:tap:a/b/c"`)
	s.expect(t, "vm-b", `link vm-b type tap mtu 1500 address 02:00:00:00:00:01 multi_queue alias "virtmesh:tap:d/e/f"`)
	s.do(t,
		netplug.SetAlias{Link: "vm-b", Alias: "other"},
		netplug.DelAddr{Link: "br-a", Addr: netip.MustParsePrefix("10.9.0.1/24")},
		netplug.SetUp{Link: "br-a"},
		netplug.SetIsolated{Link: "vm-a"},
	)
	s.expect(t, "br-a", `link br-a type bridge mtu 1400 address 02:00:00:00:00:01 alias "virtmesh:bridge:"`)
	s.expect(t, "vm-a", `link vm-a type tap master br-a mtu 1400 address fe:00:00:00:00:01 user 64055 group 108 up alias "virtmesh:tap:a/b/c"`)
	s.expect(t, "vm-b", `link vm-b type tap mtu 1500 address 02:00:00:00:00:01 multi_queue alias "other"`)
	s.do(t, netplug.DelLink{Name: "br-a"})
	s.expect(t, "vm-a", `link vm-a type tap mtu 1400 address fe:00:00:00:00:01 user 64055 group 108 up alias "virtmesh:tap:a/b/c"`)
	s.do(t, netplug.DelLink{Name: "vm-a"}, netplug.DelLink{Name: "vm-b"})
	s.expect(t, "vm-a", "")
}

// gate passes on kernels with and without gates. The latter must say so from then on.
func (s suite) gate(t *testing.T) {
	s.do(t, netplug.AddBridge{Name: "br-g", Alias: "virtmesh:bridge:"})
	set := netplug.SetGate{Link: "br-g"}
	err := s.k.Do(t.Context(), set)
	if errors.Is(err, netplug.ErrUnsupported) {
		if !s.world(t).NoGates {
			t.Error("the kernel does not report that it lacks gates")
		}
	} else {
		if err != nil {
			t.Fatal(err)
		}
		s.do(t, set)
		if l := s.line(t, "br-g"); !strings.Contains(l, " gated ") {
			t.Errorf("the bridge with a gate is %q", l)
		}
	}
	s.do(t, netplug.DelLink{Name: "br-g"})
}

func (s suite) uplinkPort(t *testing.T) {
	s.do(t, netplug.AddBridge{Name: "br-u", Alias: "virtmesh:bridge:"}, netplug.SetMaster{Link: s.uplink, Master: "br-u"})
	master := func() string {
		for _, l := range s.world(t).Links {
			if l.Name == s.uplink {
				return l.Master
			}
		}
		return "no link"
	}
	if got := master(); got != "br-u" {
		t.Errorf("master of the uplink is %q after it was plugged in", got)
	}
	s.do(t, netplug.SetMaster{Link: s.uplink})
	if got := master(); got != "" {
		t.Errorf("master of the uplink is %q after it was unplugged", got)
	}
	s.do(t, netplug.DelLink{Name: "br-u"})
	const key = "net/ipv4/ip_forward"
	s.do(t, netplug.SetSysctl{Key: key, Value: "1"})
	if got := s.world(t, key, "net/ipv4/conf/none/rp_filter").Sysctls; len(got) != 1 || got[key] != "1" {
		t.Errorf("sysctls are %v", got)
	}
}

func (s suite) filter(t *testing.T) {
	rules := netplug.FilterFor(EveryRule(), EveryTransit(), EveryGate())
	s.do(t, netplug.LoadFilter{Ruleset: rules})
	if got := s.world(t).Filter; got != rules.Fingerprint() {
		t.Errorf("filter is %q, want %q", got, rules.Fingerprint())
	}
	other := netplug.FilterFor(netplug.Want{Bridges: EveryRule().Bridges[:1], Taps: EveryRule().Taps[:1]}, netplug.Transit{}, nil)
	s.do(t, netplug.LoadFilter{Ruleset: other})
	if got := s.world(t).Filter; got != other.Fingerprint() {
		t.Errorf("filter is %q after it was replaced, want %q", got, other.Fingerprint())
	}
	s.do(t, netplug.LoadFilter{Ruleset: netplug.FilterFor(netplug.Want{}, netplug.Transit{}, nil)})
	if got := s.world(t).Filter; got != "" {
		t.Errorf("filter is %q after it was removed", got)
	}
}

// watchFilter waits for each call as long as it takes: a call that never comes ends the test
// by its own time limit.
func (s suite) watchFilter(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	called, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() { ended <- s.k.WatchFilter(ctx, func() { called <- struct{}{} }) }()
	<-called
	s.do(t, netplug.LoadFilter{Ruleset: netplug.FilterFor(EveryRule(), EveryTransit(), EveryGate())})
	<-called
	s.do(t, netplug.LoadFilter{Ruleset: netplug.FilterFor(netplug.Want{}, netplug.Transit{}, nil)})
	<-called
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the watch ends with %v", err)
	}
}

// vlans passes on kernels with and without VLANs. A kernel without them must return
// ErrUnsupported and leave no link behind.
func (s suite) vlans(t *testing.T) {
	err := s.k.Do(t.Context(), netplug.AddVLAN{Name: "vm-v", Alias: "virtmesh:vlan:", Parent: s.uplink, ID: 7})
	switch {
	case errors.Is(err, netplug.ErrUnsupported):
		s.expect(t, "vm-v", "")
	case err != nil:
		t.Errorf("add a VLAN: %v", err)
	default:
		s.do(t, netplug.DelLink{Name: "vm-v"})
	}
	err = s.k.Do(t.Context(), netplug.AddBridge{Name: "br-v", Alias: "virtmesh:bridge:", VLANFiltering: true})
	if errors.Is(err, netplug.ErrUnsupported) {
		s.expect(t, "br-v", "")
		return
	}
	if err != nil {
		t.Fatalf("add a filtering bridge: %v", err)
	}
	s.do(t,
		netplug.AddTap{Name: "vm-v", Alias: "virtmesh:tap:"},
		netplug.SetMAC{Link: "vm-v", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
		netplug.SetMaster{Link: "vm-v", Master: "br-v"},
		netplug.DelPortVLAN{Link: "vm-v", ID: 1},
		netplug.AddPortVLAN{Link: "vm-v", VLAN: netplug.PortVLAN{ID: 7, PVID: true, Untagged: true}},
		netplug.AddPortVLAN{Link: "vm-v", VLAN: netplug.PortVLAN{ID: 8}},
	)
	s.expect(t, "vm-v", `link vm-v type tap master br-v mtu 1500 address 02:00:00:00:00:01 vid 7 pvid untagged vid 8 alias "virtmesh:tap:"`)
	s.do(t, netplug.DelLink{Name: "vm-v"}, netplug.DelLink{Name: "br-v"})
}

func (s suite) errors(t *testing.T) {
	for _, op := range []netplug.Op{
		netplug.DelLink{Name: "vm-none"},
		netplug.SetUp{Link: "vm-none", Up: true},
		netplug.SetMaster{Link: s.uplink, Master: "vm-none"},
		netplug.SetSysctl{Key: "net/ipv4/conf/vm-none/rp_filter", Value: "1"},
		netplug.AddBridge{Name: s.uplink, Alias: "virtmesh:bridge:"},
		netplug.AddTap{Name: s.uplink, Alias: "virtmesh:tap:"},
	} {
		if err := s.k.Do(t.Context(), op); err == nil {
			t.Errorf("%s succeeds", op)
		}
	}
	s.do(t, netplug.SetSysctl{Key: "net/ipv4/conf/vm-none/rp_filter", Value: "1", Optional: true})
}

// EveryRule returns a Want whose packet filter has every kind of match and verdict.
func EveryRule() netplug.Want {
	return netplug.Want{
		Bridges: []netplug.Bridge{
			{Name: "pod", Address: netip.MustParsePrefix("10.9.0.1/20"), NAT: true, DHCP: &netplug.DHCP{}, DNS: true},
			{Name: "other", Address: netip.MustParsePrefix("10.8.0.1/24")},
			{Name: "br1", AllowExisting: true},
			{Name: "br2", Uplink: "up0"},
		},
		Taps: []netplug.Tap{
			{Name: "vm-ip", Bridge: "pod", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Address: netip.MustParseAddr("10.9.0.5"), IPSpoofCheck: true},
			{Name: "vm-mac", Bridge: "br1", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, MACSpoofCheck: true},
			{Name: "vm-open", Bridge: "br1", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 3}, TaggedFrames: true},
			{Name: "vm-some", Bridge: "br1", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 4}, MaxMACs: 8, RAGuard: true, DHCPGuard: true},
		},
		// One lies in another, and one is of IPv6.
		Protected: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("fd00::1/128"),
			netip.MustParsePrefix("203.0.113.7/32"), netip.MustParsePrefix("169.254.0.0/16"),
		},
		MaxConnections: 1000,
		Allowed:        []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("192.0.2.64/32")},
	}
}

// EveryTransit returns a Transit with every kind of bridge.
func EveryTransit() netplug.Transit {
	return netplug.Transit{Closed: true, Bridges: []netplug.TransitBridge{{Name: "br-lan"}, {Name: "docker0", Inner: true}}}
}

// EveryGate returns the ports of those bridges of EveryRule that are to have a gate.
func EveryGate() []string { return []string{"up0", "vm-ip"} }
