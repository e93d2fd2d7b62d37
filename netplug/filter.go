package netplug

import (
	"net/netip"
	"slices"
	"strings"

	"virtmesh/netplug/ruleset"
)

// FilterTable is the name of our tables in the packet filter, one in family inet and one
// in family bridge.
const FilterTable = "virtmesh"

// Where our chains stand among others: the bridge's filter at its usual place, before
// anything is learned from a frame's network layer; input and forward just before those
// of a host firewall, whose word is final for what we accept.
const (
	priorityPort   = -200
	priorityFilter = -10
	prioritySNAT   = 100
)

// FilterFor returns the packet filter that a Want asks for. It is a pure function. A Want
// without bridges needs none, and gets tables without chains. A bridge with AllowExisting
// is taken to be the host's own.
func FilterFor(w Want) ruleset.Ruleset {
	inet := ruleset.Table{Family: ruleset.Inet, Name: FilterTable}
	gateways := slices.DeleteFunc(slices.Clone(w.Bridges), func(b Bridge) bool { return !b.Address.IsValid() })
	closed := slices.DeleteFunc(slices.Clone(w.Bridges), func(b Bridge) bool { return b.Address.IsValid() || b.AllowExisting })
	if len(gateways) > 0 || len(closed) > 0 {
		inet.Chains = append(inet.Chains, inputChains(gateways, closed)...)
		inet.Chains = append(inet.Chains, forwardChains(gateways, closed, w)...)
		inet.Chains = append(inet.Chains, natChain(gateways))
	}
	return ruleset.Ruleset{Tables: []ruleset.Table{inet, portTable(w)}}
}

// inputChains keep guests away from the host itself, but for the services of their
// gateway and answers to what the host began. On a bridge without an address of the host
// nothing is for the host: who sends it something there, as a guest that found one of its
// addresses by ARP does, is looking for a way around the rules of the gateways.
func inputChains(gateways, closed []Bridge) []ruleset.Chain {
	base := ruleset.Chain{Name: "input", Hook: &ruleset.Hook{Type: ruleset.Filter, Point: ruleset.Input, Priority: priorityFilter}}
	var chains []ruleset.Chain
	for _, b := range gateways {
		name := "input_" + b.Name
		base.Rules = append(base.Rules, rule(ruleset.Jump{Chain: name}, ruleset.InInterface{Name: b.Name}))
		gateway := ruleset.IPAddr{End: ruleset.Destination, Prefix: hostPrefix(b.Address.Addr())}
		c := ruleset.Chain{Name: name, Rules: []ruleset.Rule{rule(ruleset.Accept{}, ruleset.Tracked{})}}
		if b.DHCP != nil {
			c.Rules = append(c.Rules, rule(ruleset.Accept{}, ruleset.Port{Protocol: ruleset.UDP, End: ruleset.Destination, Port: 67}))
		}
		if b.DNS {
			for _, p := range []ruleset.Protocol{ruleset.UDP, ruleset.TCP} {
				c.Rules = append(c.Rules, rule(ruleset.Accept{}, gateway, ruleset.Port{Protocol: p, End: ruleset.Destination, Port: 53}))
			}
		}
		c.Rules = append(c.Rules, rule(ruleset.Accept{}, gateway, ruleset.ICMPEcho{}), rule(ruleset.Drop{}))
		chains = append(chains, c)
	}
	for _, b := range closed {
		base.Rules = append(base.Rules, rule(ruleset.Drop{}, ruleset.InInterface{Name: b.Name}))
	}
	return append([]ruleset.Chain{base}, chains...)
}

// forwardChains say where guests may go through the host, and who may come to them.
func forwardChains(gateways, closed []Bridge, w Want) []ruleset.Chain {
	base := ruleset.Chain{Name: "forward", Hook: &ruleset.Hook{Type: ruleset.Filter, Point: ruleset.Forward, Priority: priorityFilter}}
	var chains []ruleset.Chain
	for _, b := range closed {
		// The host is no router here. What stays on the bridge is not its business, also
		// where bridged frames come by.
		base.Rules = append(base.Rules,
			rule(ruleset.Drop{}, ruleset.InInterface{Name: b.Name}, ruleset.OutInterface{Name: b.Name, Not: true}))
	}
	for _, b := range gateways {
		// A host may hand bridged frames to this hook too (bridge-nf-call-iptables).
		base.Rules = append(base.Rules,
			rule(ruleset.Accept{}, ruleset.InInterface{Name: b.Name}, ruleset.OutInterface{Name: b.Name}))
	}
	for _, b := range gateways {
		from, to := "from_"+b.Name, "to_"+b.Name
		base.Rules = append(base.Rules, rule(ruleset.Jump{Chain: from}, ruleset.InInterface{Name: b.Name}))
		chains = append(chains, fromChain(from, b, gateways, w))
		if b.NAT {
			base.Rules = append(base.Rules, rule(ruleset.Jump{Chain: to}, ruleset.OutInterface{Name: b.Name}))
			chains = append(chains, toChain(to))
		}
	}
	return append([]ruleset.Chain{base}, chains...)
}

// toChain judges what comes to guests behind NAT: answers, and what the administrator
// redirects to them.
func toChain(name string) ruleset.Chain {
	return ruleset.Chain{Name: name, Rules: []ruleset.Rule{
		rule(ruleset.Accept{}, ruleset.Tracked{}),
		rule(ruleset.Accept{}, ruleset.Translated{}),
		rule(ruleset.Drop{}),
	}}
}

// fromChain judges what guests of a bridge send through the host.
func fromChain(name string, b Bridge, gateways []Bridge, w Want) ruleset.Chain {
	c := ruleset.Chain{Name: name, Rules: []ruleset.Rule{
		rule(ruleset.Drop{}, ruleset.NotIPv4{}),
		rule(ruleset.Drop{}, ruleset.IPAddr{End: ruleset.Source, Prefix: b.Address.Masked(), Not: true}),
		rule(ruleset.Accept{}, ruleset.Tracked{}),
		rule(ruleset.Accept{}, ruleset.Translated{}),
	}}
	for _, other := range gateways {
		if other.Name != b.Name {
			c.Rules = append(c.Rules, rule(ruleset.Drop{}, ruleset.OutInterface{Name: other.Name}))
		}
	}
	for _, p := range w.Protected {
		if p.Addr().Is4() {
			c.Rules = append(c.Rules, rule(ruleset.Drop{}, ruleset.IPAddr{End: ruleset.Destination, Prefix: p.Masked()}))
		}
	}
	c.Rules = append(c.Rules, rule(ruleset.Accept{}))
	return c
}

// natChain sends guests out under the host's addresses.
func natChain(gateways []Bridge) ruleset.Chain {
	post := ruleset.Chain{Name: "postrouting", Hook: &ruleset.Hook{Type: ruleset.NAT, Point: ruleset.Postrouting, Priority: prioritySNAT}}
	for _, b := range gateways {
		subnet := b.Address.Masked()
		if b.NAT {
			post.Rules = append(post.Rules, rule(ruleset.Masquerade{},
				ruleset.IPAddr{End: ruleset.Source, Prefix: subnet},
				ruleset.IPAddr{End: ruleset.Destination, Prefix: subnet, Not: true},
				ruleset.OutInterface{Name: b.Name, Not: true}))
		}
	}
	return post
}

// portTable holds each guest to its own addresses, where it enters the host. It is there
// without any tap too: a machine that no one wants may still run on one.
func portTable(w Want) ruleset.Table {
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
			rule(ruleset.Lookup{Map: ports.Name}),
			// A tap we do not know belongs to a machine we do not know. It is kept, but
			// not let onto any network.
			rule(ruleset.Drop{}, ruleset.InInterface{Name: TapPrefix + "*"}),
		},
	}
	t.Chains = append(t.Chains, base)
	for _, tap := range taps {
		rules := portRules(tap)
		entry := ruleset.MapEntry{Interface: tap.Name, Verdict: ruleset.Accept{}}
		if len(rules) > 0 {
			chain := ruleset.Chain{Name: "port_" + tap.Name, Rules: rules}
			entry.Verdict = ruleset.Jump{Chain: chain.Name}
			t.Chains = append(t.Chains, chain)
		}
		ports.Entries = append(ports.Entries, entry)
	}
	t.Maps = []ruleset.VerdictMap{ports}
	return t
}

// portRules judge the frames of one guest. They end with a verdict, since the base chain
// drops what returns to it.
func portRules(t Tap) []ruleset.Rule {
	var rules []ruleset.Rule
	if t.MACSpoofCheck || t.IPSpoofCheck {
		rules = append(rules, rule(ruleset.Drop{}, ruleset.EtherSource{MAC: t.MAC, Not: true}))
	}
	if !t.IPSpoofCheck {
		if len(rules) > 0 {
			rules = append(rules, rule(ruleset.Accept{}))
		}
		return rules
	}
	dhcp := ruleset.Port{Protocol: ruleset.UDP, End: ruleset.Destination, Port: 67}
	unset := netip.IPv4Unspecified()
	rules = append(rules,
		rule(ruleset.Drop{}, ruleset.ARPSenderMAC{MAC: t.MAC, Not: true}),
		// Without an address yet, a guest asks whether someone has the one it was given.
		rule(ruleset.Accept{}, ruleset.ARPSource{Addr: unset}),
	)
	if t.Address.IsValid() {
		rules = append(rules, rule(ruleset.Accept{}, ruleset.ARPSource{Addr: t.Address}))
	}
	rules = append(rules,
		// No guest can ask for, or give back, the lease of another.
		rule(ruleset.Drop{}, dhcp, ruleset.DHCPClientMAC{MAC: t.MAC, Not: true}),
		rule(ruleset.Accept{}, ruleset.IPAddr{End: ruleset.Source, Prefix: hostPrefix(unset)}, dhcp),
	)
	if t.Address.IsValid() {
		rules = append(rules, rule(ruleset.Accept{}, ruleset.IPAddr{End: ruleset.Source, Prefix: hostPrefix(t.Address)}))
	}
	return append(rules, rule(ruleset.Drop{}))
}

func rule(do ruleset.Verdict, match ...ruleset.Match) ruleset.Rule {
	return ruleset.Rule{If: match, Do: do}
}

// hostPrefix is the network of a single address.
func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
