package netplug

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Plan lists the steps that make a World match a Want. It can be printed.
type Plan struct {
	Steps []Step
	// Blocked are the subjects that are impossible in the present state of the host, with
	// the reason. No steps are planned for them.
	Blocked map[string]error
	// Busy are taps that are no longer wanted but still held open by a machine, and
	// bridges that such taps are plugged into. They are kept.
	Busy []string
	// Filter is the fingerprint of the wanted packet filter; empty if none is wanted.
	Filter string
}

// String prints the steps, one a line.
func (p Plan) String() string {
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

// The alias of a link marks the links that netplug made.
const (
	markPrefix = "virtmesh:"
	markTap    = markPrefix + "tap:"
	markBridge = markPrefix + "bridge:"
	markVLAN   = markPrefix + "vlan:"
	// markForwarding follows markBridge; see turnedForwardingOn.
	markForwarding = "forwarding,"
	// maxAlias is the longest alias the kernel takes.
	maxAlias = 255
)

// tapAlias returns the alias of a tap: the mark and the tap's key.
func tapAlias(t Tap) string {
	alias := markTap + t.Key()
	return alias[:min(len(alias), maxAlias)]
}

// bridgeAlias returns the alias of a bridge: the mark, with that of forwarding if it is to
// have one, and the uplink that netplug plugged into it, so that the uplink can be unplugged
// when another one is wanted.
func bridgeAlias(b Bridge, forwarding bool) string {
	mark := markBridge
	if forwarding {
		mark += markForwarding
	}
	return mark + "uplink=" + uplinkPort(b)
}

// ours reports whether netplug made the link.
func (l Link) ours() bool { return strings.HasPrefix(l.Alias, markPrefix) }

// turnedForwardingOn reports whether the link is a bridge that is marked because netplug
// turned the host's forwarding on. The mark lives as long as the bridge, so it is gone after
// a reboot like the kernel parameter itself.
func (l Link) turnedForwardingOn() bool { return strings.HasPrefix(l.Alias, markBridge+markForwarding) }

// rememberedUplink returns the uplink port in the alias of a bridge.
func (l Link) rememberedUplink() string {
	_, uplink, _ := strings.Cut(l.Alias, "uplink=")
	return uplink
}

// uplinkPort returns the name of the link that is plugged into the bridge as its uplink.
func uplinkPort(b Bridge) string {
	if b.UplinkVLAN != 0 {
		return vlanName(b.Uplink, b.UplinkVLAN)
	}
	return b.Uplink
}

// Subjects of steps.
const (
	subjectFilter     = "packet filter"
	subjectForwarding = "forwarding"
)

func gateSubject(name string) string   { return "gate of " + name }
func bridgeSubject(name string) string { return "bridge " + name }
func tapSubject(name string) string    { return "tap " + name }

// sysctlKeys returns the kernel parameters that a plan for the Want needs to know.
func sysctlKeys(w Want) []string {
	keys := []string{sysctlForward}
	for _, b := range w.Bridges {
		keys = append(keys, sysctlIPv6(b.Name), sysctlRPFilter(b.Name), sysctlARPIgnore(b.Name))
	}
	for _, t := range w.Taps {
		keys = append(keys, sysctlIPv6(t.Name))
	}
	return keys
}

const sysctlForward = "net/ipv4/ip_forward"

func sysctlIPv6(link string) string      { return "net/ipv6/conf/" + link + "/disable_ipv6" }
func sysctlRPFilter(link string) string  { return "net/ipv4/conf/" + link + "/rp_filter" }
func sysctlARPIgnore(link string) string { return "net/ipv4/conf/" + link + "/arp_ignore" }

// PlanFor returns the plan that makes the World match the Want. It is a pure function. The
// Want must be valid.
func PlanFor(w Want, have World) Plan {
	p := planner{want: w, have: have, plan: Plan{Blocked: map[string]error{}}, removed: map[string]bool{}, moved: map[string]bool{}}
	// Removals come first, so that names, addresses and uplinks are free.
	p.removeTaps()
	p.removeBridges()
	for _, b := range w.Bridges {
		if p.checkBridge(b) {
			p.made = append(p.made, b)
		}
	}
	for _, b := range p.made {
		p.planBridge(b)
	}
	// The filter is loaded before the first tap that it must hold is up.
	p.planFilter()
	p.planGates()
	p.planForwarding()
	for _, t := range w.Taps {
		p.planTap(t)
	}
	return p.plan
}

type planner struct {
	want Want
	have World
	plan Plan
	// subject and needs belong to the steps that are being planned.
	subject string
	needs   []string
	// removed are the links that the plan removes, moved the uplinks that it plugs in.
	removed, moved map[string]bool
	// made are the wanted bridges that are, or are going to be, netplug's own.
	made []Bridge
}

// master returns the bridge that the link stays plugged into. It is empty if the bridge is
// removed, or if the bridge is netplug's and no longer wants the link as its uplink.
func (p *planner) master(l Link) string {
	if p.removed[l.Master] {
		return ""
	}
	m, ok := p.have.link(l.Master)
	if !ok || !m.ours() || m.rememberedUplink() != l.Name {
		return l.Master
	}
	for _, b := range p.want.Bridges {
		if b.Name == m.Name && uplinkPort(b) == l.Name {
			return l.Master
		}
	}
	return ""
}

// beginSubject sets the subject, and what it needs, of the steps added from now on.
func (p *planner) beginSubject(subject string, needs ...string) { p.subject, p.needs = subject, needs }

func (p *planner) addSteps(ops ...Op) {
	for _, op := range ops {
		p.plan.Steps = append(p.plan.Steps, Step{Subject: p.subject, Needs: p.needs, Op: op})
	}
}

func (p *planner) blockSubject(subject, format string, args ...any) {
	p.plan.Blocked[subject] = fmt.Errorf(format, args...)
}

// removeTaps removes the taps that are no longer wanted, except those that a machine holds
// open.
func (p *planner) removeTaps() {
	for _, l := range p.have.Links {
		wanted := slices.ContainsFunc(p.want.Taps, func(t Tap) bool { return t.Name == l.Name })
		if wanted || !strings.HasPrefix(l.Alias, markTap) {
			continue
		}
		if l.Carrier {
			p.plan.Busy = append(p.plan.Busy, l.Name)
			continue
		}
		p.beginSubject(tapSubject(l.Name))
		p.addSteps(DelLink{Name: l.Name})
	}
}

// removeBridges removes bridges, and VLANs of uplinks, that are no longer wanted.
func (p *planner) removeBridges() {
	for _, l := range p.have.Links {
		var wanted bool
		switch {
		case strings.HasPrefix(l.Alias, markBridge):
			wanted = slices.ContainsFunc(p.want.Bridges, func(b Bridge) bool { return b.Name == l.Name })
		case strings.HasPrefix(l.Alias, markVLAN):
			wanted = slices.ContainsFunc(p.want.Bridges, func(b Bridge) bool { return uplinkPort(b) == l.Name })
		default:
			continue
		}
		if wanted {
			continue
		}
		if p.hasBusyPort(l.Name) {
			p.plan.Busy = append(p.plan.Busy, l.Name)
			continue
		}
		p.removed[l.Name] = true
		p.beginSubject(bridgeSubject(l.Name))
		p.addSteps(DelLink{Name: l.Name})
	}
}

// hasBusyPort reports whether a busy tap is plugged into the bridge.
func (p *planner) hasBusyPort(bridge string) bool {
	return slices.ContainsFunc(p.have.Links, func(l Link) bool {
		return l.Master == bridge && slices.Contains(p.plan.Busy, l.Name)
	})
}

// forwards reports whether the host forwards already.
func (p *planner) forwards() bool { return p.have.Sysctls[sysctlForward] == "1" }

// forwardingNeeded reports whether the host must forward for a bridge.
func (p *planner) forwardingNeeded() bool {
	return slices.ContainsFunc(p.made, func(b Bridge) bool { return b.NAT })
}

// forwardingIsOurs reports whether the host forwards, or is going to, only because netplug
// needs it. All bridges of netplug are marked with that, so that it is known as long as
// there is one.
func (p *planner) forwardingIsOurs() bool {
	return slices.ContainsFunc(p.have.Links, func(l Link) bool {
		return l.turnedForwardingOn() && (len(p.made) > 0 || !p.removed[l.Name])
	}) || !p.forwards() && p.forwardingNeeded()
}

// planForwarding turns IPv4 forwarding on if a bridge has NAT, after the bridges are marked
// and the filter is there. It is never turned off again, because other software on the host
// may rely on it.
func (p *planner) planForwarding() {
	if p.forwards() || !p.forwardingNeeded() {
		return
	}
	needs := []string{subjectFilter}
	for _, b := range p.made {
		if b.NAT {
			needs = append(needs, bridgeSubject(b.Name))
		}
	}
	p.beginSubject(subjectForwarding, needs...)
	p.addSteps(SetSysctl{Key: sysctlForward, Value: "1"})
}

// transit returns what the filter does with the traffic of others.
func (p *planner) transit() Transit {
	if p.want.Router || !p.forwardingIsOurs() {
		return Transit{}
	}
	t := Transit{Closed: true}
	for _, l := range p.have.Links {
		if l.Kind == KindBridge && !l.ours() {
			t.Bridges = append(t.Bridges, TransitBridge{Name: l.Name, Inner: !p.leadsOut(l.Name)})
		}
	}
	slices.SortFunc(t.Bridges, func(a, b TransitBridge) int { return strings.Compare(a.Name, b.Name) })
	return t
}

// leadsOut reports whether a bridge has a port that is not the card of a virtual machine or
// a container.
func (p *planner) leadsOut(bridge string) bool {
	return slices.ContainsFunc(p.have.Links, func(l Link) bool {
		return l.Master == bridge && l.Kind != KindTap && l.Kind != kindVeth
	})
}

// filterWant returns the Want for which the filter is computed. It differs in two ways.
//
// AllowExisting is set exactly for the bridges that belong to the host. A bridge that
// netplug made, because the host had none of that name, is closed like any other bridge of
// netplug. A bridge of the host is never closed, whatever the Want says about it: the
// administrator may be connected through it.
//
// Bridges that are not wanted are added if busy taps are plugged into them, so that those
// machines are cut off as long as they run.
func (p *planner) filterWant() Want {
	w := p.want
	w.Bridges = slices.Clone(w.Bridges)
	for _, l := range p.have.Links {
		known := slices.ContainsFunc(w.Bridges, func(b Bridge) bool { return b.Name == l.Master })
		if l.Master != "" && !known && slices.Contains(p.plan.Busy, l.Name) {
			w.Bridges = append(w.Bridges, Bridge{Name: l.Master})
		}
	}
	for i := range w.Bridges {
		b := &w.Bridges[i]
		l, exists := p.have.link(b.Name)
		if b.AllowExisting = exists && !l.ours(); b.AllowExisting {
			b.Address, b.NAT = netip.Prefix{}, false
		}
	}
	return w
}

// planFilter loads the packet filter unless the same one is loaded already.
func (p *planner) planFilter() {
	w := p.filterWant()
	rules := FilterFor(w, p.transit(), p.gatePorts(w))
	fingerprint := ""
	if slices.ContainsFunc(rules.Tables, hasChains) {
		fingerprint = rules.Fingerprint()
	}
	p.plan.Filter = fingerprint
	if fingerprint != p.have.Filter {
		p.beginSubject(subjectFilter)
		p.addSteps(LoadFilter{Ruleset: rules})
	}
}

// gatePorts returns, for a Want of filterWant, the ports of the bridges that have a gate or,
// after this plan, will have one, in order. Without a gate to take the mark away nothing is
// to be marked.
func (p *planner) gatePorts(w Want) []string {
	gated := map[string]bool{}
	var ports []string
	for _, b := range w.Bridges {
		l, _ := p.have.link(b.Name)
		planned := !p.have.NoGates && slices.ContainsFunc(p.made, func(m Bridge) bool { return m.Name == b.Name })
		if gated[b.Name] = !b.AllowExisting && (l.Gated || planned); gated[b.Name] && b.Uplink != "" {
			ports = append(ports, uplinkPort(b))
		}
	}
	for _, t := range w.Taps {
		if gated[t.Bridge] {
			ports = append(ports, t.Name)
		}
	}
	for _, l := range p.have.Links {
		// What an administrator plugged in. What netplug did may be about to be unplugged.
		bridge, _ := p.have.link(l.Master)
		if gated[l.Master] && !l.ours() && l.Name != bridge.rememberedUplink() {
			ports = append(ports, l.Name)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// planGates plans a gate for each bridge of netplug, after the filter whose mark it asks
// for. A kernel that lacks them has the filter alone.
func (p *planner) planGates() {
	for _, b := range p.made {
		if l, _ := p.have.link(b.Name); !l.Gated && !p.have.NoGates {
			p.beginSubject(gateSubject(b.Name), bridgeSubject(b.Name), subjectFilter)
			p.addSteps(SetGate{Link: b.Name})
		}
	}
}

// planSysctl sets a parameter of a link to 1. If the link exists and the parameter does
// not, the kernel was built without it.
func (p *planner) planSysctl(linkExists bool, key string) {
	now, exists := p.have.Sysctls[key]
	if linkExists && (!exists || now == "1") {
		return
	}
	p.addSteps(SetSysctl{Key: key, Value: "1", Optional: true})
}
