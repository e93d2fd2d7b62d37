package netplug

import (
	"cmp"
	"math"
	"net/netip"
	"slices"

	"virtmesh/netplug/ruleset"
)

// FilterTable is the name of netplug's tables in the packet filter: one in family inet and
// one in family bridge.
const FilterTable = "virtmesh"

// The hook priorities of the chains. The chain in the bridge family has the usual priority
// of bridge filters, before anything is learned from the network layer of a frame. Input
// and forward come just before the chains of a host firewall, which may still drop what
// netplug accepts.
//
// The mark for a gate is set as late as can be (linux/netfilter_bridge.h, NF_BR_PRI_LAST):
// with br_netfilter the rules of the host for IPv4 run before, on frames that are still on
// the bridge, and may write the mark.
const (
	priorityPort   = -200
	priorityGate   = math.MaxInt32
	priorityFilter = -10
	prioritySNAT   = 100
)

// GateMark is the bit of a packet's mark that the filter sets on what leaves a bridge with a
// gate for the host. The gate, which comes next, takes it away again, and lets nothing
// through that lacks it; see SetGate. So nobody else sees it, and other bits, which belong
// to others, stay as they are.
const GateMark = 1 << 28

// Transit is what the filter does with IPv4 traffic through the host that is neither from
// nor to guests behind a gateway. The zero value lets it pass.
type Transit struct {
	// Closed drops it, but for answers, redirections (DNAT), and what Bridges allow. It is
	// set on a host that forwards only because netplug turned forwarding on.
	Closed bool
	// Bridges are those of the host that netplug did not make. Frames that stay on one are
	// not dropped: a host may pass bridged frames to the same hook.
	Bridges []TransitBridge
}

// TransitBridge is a bridge of the host that netplug did not make.
type TransitBridge struct {
	Name string
	// Inner is set for a bridge with none but virtual machines and containers on it. The
	// program that made it wants them to get out.
	Inner bool
}

// FilterFor returns the packet filter for a Want, on a host where gatePorts are the names of
// the ports of bridges with a gate. It is a pure function. For a Want without bridges it
// returns tables without chains. It treats a bridge with AllowExisting as a bridge of the
// host.
func FilterFor(w Want, transit Transit, gatePorts []string) ruleset.Ruleset {
	inet := ruleset.Table{Family: ruleset.Inet, Name: FilterTable}
	gateways := slices.DeleteFunc(slices.Clone(w.Bridges), func(b Bridge) bool { return !b.Address.IsValid() })
	closed := slices.DeleteFunc(slices.Clone(w.Bridges), func(b Bridge) bool { return b.Address.IsValid() || b.AllowExisting })
	if len(gateways) > 0 || len(closed) > 0 {
		if w.MaxConnections > 0 {
			inet.Sets = []ruleset.Set{{Name: connectionSet, Of: ruleset.IPv4Addrs, Size: maxGuests}}
		}
		inet.Chains = append(inet.Chains, inputChains(gateways, closed, w)...)
		inet.Chains = append(inet.Chains, forwardChains(gateways, closed, w, transit)...)
		inet.Chains = append(inet.Chains, natChain(gateways))
	}
	return ruleset.Ruleset{Tables: []ruleset.Table{inet, portTable(w, gatePorts)}}
}

// inputChains returns the chains that keep guests away from the host itself. They allow
// the services of the guests' gateway and answers to connections that the host opened. On
// a bridge without an address they drop everything addressed to the host: a guest that
// found another address of the host by ARP could otherwise bypass the gateway's rules.
func inputChains(gateways, closed []Bridge, w Want) []ruleset.Chain {
	base := ruleset.Chain{Name: "input", Hook: &ruleset.Hook{Type: ruleset.Filter, Point: ruleset.Input, Priority: priorityFilter}}
	var chains []ruleset.Chain
	for _, b := range gateways {
		name := "input_" + b.Name
		base.Rules = append(base.Rules, rule(ruleset.Jump{Chain: name}, ruleset.InInterface{Name: b.Name}))
		gateway := ruleset.IPAddr{End: ruleset.Destination, Prefix: hostPrefix(b.Address.Addr())}
		c := ruleset.Chain{Name: name, Rules: []ruleset.Rule{rule(ruleset.Accept{}, ruleset.Tracked{})}}
		if b.DHCP != nil {
			// Guests without an address share one, so it is not counted. Its ports are fixed: each
			// source address makes one connection of it.
			c.Rules = append(c.Rules, rule(ruleset.Accept{}, dhcpBroadcast()...))
		}
		c.Rules = append(c.Rules, connectionRules(w)...)
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

// dhcpBroadcast matches what a DHCP client sends that does not know its server yet, or has
// lost it (RFC 2131, section 4.1).
func dhcpBroadcast() []ruleset.Match {
	return []ruleset.Match{
		ruleset.IPAddr{End: ruleset.Destination, Prefix: hostPrefix(netip.AddrFrom4([4]byte{255, 255, 255, 255}))},
		ruleset.Port{Protocol: ruleset.UDP, End: ruleset.Source, Port: 68},
		ruleset.Port{Protocol: ruleset.UDP, End: ruleset.Destination, Port: 67},
	}
}

// forwardChains returns the chains that decide what guests may send through the host, and
// what may be sent to them.
func forwardChains(gateways, closed []Bridge, w Want, transit Transit) []ruleset.Chain {
	base := ruleset.Chain{Name: "forward", Hook: &ruleset.Hook{Type: ruleset.Filter, Point: ruleset.Forward, Priority: priorityFilter}}
	var chains []ruleset.Chain
	for _, b := range closed {
		// The host does not route for this bridge. Frames that stay on the bridge are not
		// dropped: a host may pass bridged frames to this hook too.
		base.Rules = append(base.Rules,
			rule(ruleset.Drop{}, ruleset.InInterface{Name: b.Name}, ruleset.OutInterface{Name: b.Name, Not: true}))
	}
	for _, b := range gateways {
		// A host may pass bridged frames to this hook too (bridge-nf-call-iptables).
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
	if transit.Closed {
		base.Rules = append(base.Rules, transitRules(gateways, closed, transit)...)
	}
	return append([]ruleset.Chain{base}, chains...)
}

// transitRules returns the rules that keep the host from being a router for others. IPv6 is
// left alone, since netplug does not turn its forwarding on.
func transitRules(gateways, closed []Bridge, transit Transit) []ruleset.Rule {
	rules := []ruleset.Rule{
		rule(ruleset.Accept{}, ruleset.NotIPv4{}),
		rule(ruleset.Accept{}, ruleset.Tracked{}),
		rule(ruleset.Accept{}, ruleset.Translated{}),
	}
	for _, b := range gateways {
		if !b.NAT {
			rules = append(rules, rule(ruleset.Accept{}, ruleset.OutInterface{Name: b.Name}))
		}
	}
	for _, b := range closed {
		rules = append(rules, rule(ruleset.Accept{}, ruleset.InInterface{Name: b.Name}, ruleset.OutInterface{Name: b.Name}))
	}
	for _, b := range transit.Bridges {
		match := []ruleset.Match{ruleset.InInterface{Name: b.Name}}
		if !b.Inner {
			match = append(match, ruleset.OutInterface{Name: b.Name})
		}
		rules = append(rules, rule(ruleset.Accept{}, match...))
	}
	return append(rules, rule(ruleset.Drop{}))
}

// toChain returns the chain for packets to guests behind NAT. It accepts answers, and
// connections that the administrator redirects to the guests.
func toChain(name string) ruleset.Chain {
	return ruleset.Chain{Name: name, Rules: []ruleset.Rule{
		rule(ruleset.Accept{}, ruleset.Tracked{}),
		rule(ruleset.Accept{}, ruleset.Translated{}),
		rule(ruleset.Drop{}),
	}}
}

// fromChain returns the chain for packets that guests of a bridge send through the host.
func fromChain(name string, b Bridge, gateways []Bridge, w Want) ruleset.Chain {
	c := ruleset.Chain{Name: name, Rules: []ruleset.Rule{
		rule(ruleset.Drop{}, ruleset.NotIPv4{}),
		rule(ruleset.Drop{}, ruleset.IPAddr{End: ruleset.Source, Prefix: b.Address.Masked(), Not: true}),
		rule(ruleset.Accept{}, ruleset.Tracked{}),
	}}
	c.Rules = append(c.Rules, connectionRules(w)...)
	for _, other := range gateways {
		if other.Name != b.Name {
			c.Rules = append(c.Rules, rule(ruleset.Drop{}, ruleset.OutInterface{Name: other.Name}))
		}
	}
	if allowed := disjoint(w.Allowed); len(allowed) > 0 {
		c.Rules = append(c.Rules, rule(ruleset.Accept{}, ruleset.IPAddrIn{End: ruleset.Destination, Prefixes: allowed}))
	}
	// What is redirected elsewhere was sent to an address of this host, which is closed to
	// guests, or to another that now stands for one that may be protected.
	c.Rules = append(c.Rules, rule(ruleset.Drop{}, ruleset.Translated{}))
	if protected := disjoint(w.Protected); len(protected) > 0 {
		c.Rules = append(c.Rules, rule(ruleset.Drop{}, ruleset.IPAddrIn{End: ruleset.Destination, Prefixes: protected}))
	}
	c.Rules = append(c.Rules, rule(ruleset.Accept{}))
	return c
}

// connectionSet is the set of guests with connections to and through the host.
const connectionSet = "connections"

// maxGuests bounds the addresses in connectionSet. No subnet of a host has more.
const maxGuests = 1 << 16

// connectionRules returns the rule that keeps one guest from filling the host's table of
// connections, in which there would be no room for those of others and of the host itself.
func connectionRules(w Want) []ruleset.Rule {
	if w.MaxConnections == 0 {
		return nil
	}
	return []ruleset.Rule{rule(ruleset.Drop{}, ruleset.ConnectionsOver{Set: connectionSet, Limit: w.MaxConnections})}
}

// disjoint returns the IPv4 networks of a list in order, without those that lie in others.
func disjoint(list []netip.Prefix) []netip.Prefix {
	var kept []netip.Prefix
	sorted := slices.SortedFunc(slices.Values(list), func(a, b netip.Prefix) int {
		return cmp.Or(a.Masked().Addr().Compare(b.Masked().Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	for _, p := range sorted {
		if n := len(kept); p.Addr().Is4() && (n == 0 || !kept[n-1].Overlaps(p)) {
			kept = append(kept, p.Masked())
		}
	}
	return kept
}

// natChain returns the chain that gives packets of guests the host's source addresses.
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

func rule(do ruleset.Verdict, match ...ruleset.Match) ruleset.Rule {
	return ruleset.Rule{If: match, Do: do}
}

// hostPrefix returns the prefix that holds only the address.
func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
