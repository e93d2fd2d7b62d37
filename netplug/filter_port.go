package netplug

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"virtmesh/netplug/ruleset"
)

// portTable returns the bridge table that holds each guest to its own addresses, at the tap
// where its frames enter the host. It is needed even if no tap is wanted, because a machine
// that is no longer wanted may still hold a tap open. It also marks what it has let through
// to a gate.
func portTable(w Want, gatePorts []string) ruleset.Table {
	t := ruleset.Table{Family: ruleset.Bridge, Name: FilterTable}
	if len(w.Bridges) == 0 {
		return t
	}
	taps := slices.SortedFunc(slices.Values(w.Taps), func(a, b Tap) int { return strings.Compare(a.Name, b.Name) })
	ports := ruleset.VerdictMap{Name: "taps"}
	base := ruleset.Chain{
		Name: "prerouting",
		Hook: &ruleset.Hook{Type: ruleset.Filter, Point: ruleset.Prerouting, Priority: priorityPort},
		Rules: []ruleset.Rule{
			// A guest is no switch: what it says as one may make a real one close a port.
			rule(ruleset.Drop{}, ruleset.InInterface{Name: TapPrefix + "*"}, ruleset.ReservedMulticast{}),
			rule(ruleset.Lookup{Map: ports.Name}),
			// An unknown tap belongs to an unknown machine. The tap is kept, but
			// everything from it is dropped.
			rule(ruleset.Drop{}, ruleset.InInterface{Name: TapPrefix + "*"}),
		},
	}
	t.Chains = append(t.Chains, base)
	for _, tap := range taps {
		chain := ruleset.Chain{Name: "port_" + tap.Name, Rules: portRules(tap)}
		t.Chains = append(t.Chains, chain)
		ports.Entries = append(ports.Entries, ruleset.MapEntry{Interface: tap.Name, Verdict: ruleset.Jump{Chain: chain.Name}})
		if tap.countsMACs() {
			t.Sets = append(t.Sets, ruleset.Set{Name: macSet(tap), Of: ruleset.EtherAddrs, Size: tap.MaxMACs, Timeout: macAge})
		}
	}
	t.Maps = []ruleset.VerdictMap{ports}
	if len(gatePorts) > 0 {
		t.Maps = append(t.Maps, markMap(gatePorts))
		t.Chains = append(t.Chains, markChains()...)
	}
	return t
}

// The chain that marks a frame for a gate, and the map of the ports that lead to it. The
// kernel can match the bridge itself only if it was built to (CONFIG_NFT_BRIDGE_META).
const (
	chainMark = "to_gate"
	mapMark   = "gate_ports"
)

// markChains returns the chains that mark what leaves bridges for their gates. What comes so
// far was let through in prerouting.
func markChains() []ruleset.Chain {
	return []ruleset.Chain{
		{
			Name:  "input",
			Hook:  &ruleset.Hook{Type: ruleset.Filter, Point: ruleset.Input, Priority: priorityGate},
			Rules: []ruleset.Rule{rule(ruleset.Lookup{Map: mapMark})},
		},
		{Name: chainMark, Rules: []ruleset.Rule{rule(ruleset.SetMark{Bits: GateMark})}},
	}
}

// markMap returns the map of the ports of bridges with a gate.
func markMap(gatePorts []string) ruleset.VerdictMap {
	m := ruleset.VerdictMap{Name: mapMark}
	for _, port := range gatePorts {
		m.Entries = append(m.Entries, ruleset.MapEntry{Interface: port, Verdict: ruleset.Jump{Chain: chainMark}})
	}
	return m
}

// macAge is how long a source address counts, which is how long a bridge remembers one.
const macAge = 300 * time.Second

// macSet returns the name of the set with the source addresses of a guest.
func macSet(t Tap) string { return "macs_" + t.Name }

// countsMACs reports whether the guest may use several source addresses, but not any number.
func (t Tap) countsMACs() bool { return t.MaxMACs > 0 && !t.MACSpoofCheck && !t.IPSpoofCheck }

// portRules returns the rules for the frames of one guest. They always end with a verdict,
// because the base chain drops frames that return to it.
func portRules(t Tap) []ruleset.Rule {
	rules := guardRules(t)
	switch {
	case t.IPSpoofCheck:
		return append(rules, addressRules(t)...)
	case t.MACSpoofCheck:
		return append(rules, rule(ruleset.Drop{}, ruleset.EtherSource{MAC: t.MAC, Not: true}), rule(ruleset.Accept{}))
	case t.countsMACs():
		return append(rules, rule(ruleset.Accept{}, ruleset.LearnedMAC{Set: macSet(t)}), rule(ruleset.Drop{}))
	}
	return append(rules, rule(ruleset.Accept{}))
}

// guardRules returns the rules for what a guest must not send from any address.
func guardRules(t Tap) []ruleset.Rule {
	var rules []ruleset.Rule
	if !t.TaggedFrames {
		// On a bridge that does not filter VLANs a tag leads to any network that the uplink
		// carries.
		rules = append(rules, rule(ruleset.Drop{}, ruleset.Tagged{Outer: true}), rule(ruleset.Drop{}, ruleset.Tagged{}))
	}
	if t.RAGuard {
		rules = append(rules, rule(ruleset.Drop{}, ruleset.RouterAdvertisement{}))
	}
	if t.DHCPGuard {
		for _, port := range []uint16{67, 547} {
			rules = append(rules, rule(ruleset.Drop{}, ruleset.Port{Protocol: ruleset.UDP, End: ruleset.Source, Port: port}))
		}
	}
	return rules
}

// addressRules returns the rules that hold a guest to its own addresses.
func addressRules(t Tap) []ruleset.Rule {
	dhcp := ruleset.Port{Protocol: ruleset.UDP, End: ruleset.Destination, Port: 67}
	unset := netip.IPv4Unspecified()
	rules := []ruleset.Rule{
		rule(ruleset.Drop{}, ruleset.EtherSource{MAC: t.MAC, Not: true}),
		rule(ruleset.Drop{}, ruleset.ARPSenderMAC{MAC: t.MAC, Not: true}),
		// A guest without an address yet probes whether its new address is in use.
		rule(ruleset.Accept{}, ruleset.ARPSource{Addr: unset}),
	}
	if t.Address.IsValid() {
		rules = append(rules, rule(ruleset.Accept{}, ruleset.ARPSource{Addr: t.Address}))
	}
	rules = append(rules,
		// A guest can neither request nor release the lease of another guest. The rest of a
		// message in parts is not seen here.
		rule(ruleset.Drop{}, ruleset.Fragment{}, dhcp),
		rule(ruleset.Drop{}, dhcp, ruleset.DHCPClientMAC{MAC: t.MAC, Not: true}),
		// What a guest sends without an address counts for all that have none, so it is only what
		// DHCP needs.
		rule(ruleset.Accept{}, append([]ruleset.Match{ruleset.IPAddr{End: ruleset.Source, Prefix: hostPrefix(unset)}}, dhcpBroadcast()...)...),
	)
	if t.Address.IsValid() {
		rules = append(rules, rule(ruleset.Accept{}, ruleset.IPAddr{End: ruleset.Source, Prefix: hostPrefix(t.Address)}))
	}
	return append(rules, rule(ruleset.Drop{}))
}
