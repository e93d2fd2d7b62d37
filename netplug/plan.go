package netplug

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Plan is what to do to make a world match a want. It is a value that can be printed.
type Plan struct {
	Steps []Step
	// Blocked are parts that cannot be had as the host stands, with the reason. None of
	// their steps is planned.
	Blocked map[string]error
	// Busy are taps that are no longer wanted but still held open by a machine, and
	// bridges that such taps are plugged into. They stay.
	Busy []string
}

// String prints the steps, one a line.
func (p Plan) String() string {
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

// Marks of what is ours, kept in the alias of the link.
const (
	markPrefix = "virtmesh:"
	markTap    = markPrefix + "tap:"
	markBridge = markPrefix + "bridge:"
	markVLAN   = markPrefix + "vlan:"
	// maxAlias is the longest alias the kernel takes.
	maxAlias = 255
)

// tapAlias marks a tap and says whose it is.
func tapAlias(t Tap) string {
	alias := markTap + t.Key()
	return alias[:min(len(alias), maxAlias)]
}

// bridgeAlias marks a bridge and remembers the uplink that we plugged into it, so that it
// can be unplugged when another one is wanted.
func bridgeAlias(b Bridge) string { return markBridge + "uplink=" + uplinkPort(b) }

func (l Link) ours() bool { return strings.HasPrefix(l.Alias, markPrefix) }

// rememberedUplink is the port that bridgeAlias noted.
func (l Link) rememberedUplink() string {
	_, uplink, _ := strings.Cut(l.Alias, "uplink=")
	return uplink
}

// uplinkPort is the link that is plugged in for the uplink of a bridge.
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

func bridgeSubject(name string) string { return "bridge " + name }
func tapSubject(name string) string    { return "tap " + name }

// sysctlKeys are the parameters that a plan for the want looks at.
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

// PlanFor decides what to do to make the world match the want. It is a pure function. The
// want is valid.
func PlanFor(w Want, have World) Plan {
	p := planner{want: w, have: have, plan: Plan{Blocked: map[string]error{}}, removed: map[string]bool{}, moved: map[string]bool{}}
	// What goes, goes first, so that names, addresses and uplinks are free.
	p.removeTaps()
	p.removeBridges()
	p.forwarding()
	for _, b := range w.Bridges {
		p.bridge(b)
	}
	// The filter is there before the first tap that it must hold.
	p.filter()
	for _, t := range w.Taps {
		p.tap(t)
	}
	return p.plan
}

type planner struct {
	want Want
	have World
	plan Plan
	// subject and needs are those of the steps being planned.
	subject string
	needs   []string
	// removed are the links planned to go, and moved the uplinks planned to be plugged in.
	removed, moved map[string]bool
}

// master returns the bridge that the link stays plugged into: not one that goes, nor one
// of ours that no longer wants the link as its uplink.
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

func (p *planner) about(subject string, needs ...string) { p.subject, p.needs = subject, needs }

func (p *planner) do(ops ...Op) {
	for _, op := range ops {
		p.plan.Steps = append(p.plan.Steps, Step{Subject: p.subject, Needs: p.needs, Op: op})
	}
}

func (p *planner) block(subject, format string, args ...any) {
	p.plan.Blocked[subject] = fmt.Errorf(format, args...)
}

// removeTaps removes the taps of dead machines.
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
		p.about(tapSubject(l.Name))
		p.do(DelLink{Name: l.Name})
	}
}

// removeBridges removes bridges, and VLANs of uplinks, that no one wants.
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
		p.about(bridgeSubject(l.Name))
		p.do(DelLink{Name: l.Name})
	}
}

// hasBusyPort says whether a tap that stays is plugged into the bridge.
func (p *planner) hasBusyPort(bridge string) bool {
	return slices.ContainsFunc(p.have.Links, func(l Link) bool {
		return l.Master == bridge && slices.Contains(p.plan.Busy, l.Name)
	})
}

// forwarding lets the host route. It is never taken back: others may rely on it.
func (p *planner) forwarding() {
	needed := slices.ContainsFunc(p.want.Bridges, func(b Bridge) bool { return b.NAT })
	if needed && p.have.Sysctls[sysctlForward] != "1" {
		p.about(subjectForwarding)
		p.do(SetSysctl{Key: sysctlForward, Value: "1"})
	}
}

// filtered is the want as the filter is to see it. A bridge that the host may have is the
// host's only if it is not ours: one that was made since the host had none is closed like
// any other of ours. A bridge that is the host's is not ours to close, whatever was wanted
// of it: the administrator may have come in through it. Bridges that only machines which
// no one wants are on count too, so that those are cut off as long as they run.
func (p *planner) filtered() Want {
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

// filter loads the packet filter unless it is loaded.
func (p *planner) filter() {
	rules := FilterFor(p.filtered())
	fingerprint := ""
	if slices.ContainsFunc(rules.Tables, hasChains) {
		fingerprint = rules.Fingerprint()
	}
	if fingerprint != p.have.Filter {
		p.about(subjectFilter)
		p.do(LoadFilter{Ruleset: rules})
	}
}

// sysctl turns a parameter of a link on. A link that exists without the parameter is on a
// host whose kernel does not have it.
func (p *planner) sysctl(linkExists bool, key string) {
	now, exists := p.have.Sysctls[key]
	if linkExists && (!exists || now == "1") {
		return
	}
	p.do(SetSysctl{Key: key, Value: "1", Optional: true})
}
