package netplug

import (
	"net/netip"
	"slices"
	"strings"

	"virtmesh/netplug/ruleset"
)

// defaultMTU is that of a link the kernel has just made.
const defaultMTU = 1500

// defaultVLAN is the one that every port of a filtering bridge begins in.
const defaultVLAN = 1

func hasChains(t ruleset.Table) bool { return len(t.Chains) > 0 }

// bridge plans one bridge and its uplink.
func (p *planner) bridge(b Bridge) {
	subject := bridgeSubject(b.Name)
	l, exists := p.have.link(b.Name)
	switch {
	case exists && l.Kind != KindBridge:
		p.block(subject, "the host has a link %s of type %s", b.Name, l.Kind)
		return
	case exists && !l.ours() && b.AllowExisting:
		return
	case exists && !l.ours():
		p.block(subject, "the host has a bridge %s that is not ours", b.Name)
		return
	case !p.checkUplink(b):
		return
	}
	p.about(subject)
	alias := bridgeAlias(b)
	if !exists {
		p.do(AddBridge{Name: b.Name, Alias: alias, VLANFiltering: b.VLANFiltering})
		l = Link{Name: b.Name, Kind: KindBridge, Alias: alias, MTU: defaultMTU, VLANFiltering: b.VLANFiltering}
	}
	if l.VLANFiltering != b.VLANFiltering {
		p.do(SetVLANFiltering{Link: b.Name, On: b.VLANFiltering})
	}
	// A gateway has the same address on every host. Without one, or with an uplink that
	// joins the bridges of many hosts, the kernel's choice stands.
	if b.Address.IsValid() && b.Uplink == "" && !sameMAC(l.MAC, bridgeMAC(b.Name)) {
		p.do(SetMAC{Link: b.Name, MAC: bridgeMAC(b.Name)})
	}
	if mtu := bridgeMTU(b); mtu != 0 && l.MTU != mtu {
		p.do(SetMTU{Link: b.Name, MTU: mtu})
	}
	// Guests must not find the host's link-local addresses, nor be able to give the host
	// any by router advertisements.
	p.sysctl(exists, sysctlIPv6(b.Name))
	// Nor its other IPv4 addresses: ARP is answered for the one on the bridge only, and
	// nothing is taken from a source that has no way back through the bridge, which where
	// the host has no address is any. Both are a second wall behind the filter.
	p.sysctl(exists, sysctlRPFilter(b.Name))
	p.sysctl(exists, sysctlARPIgnore(b.Name))
	p.addrs(l, b.Address)
	if !l.Up {
		p.do(SetUp{Link: b.Name, Up: true})
	}
	p.uplink(b, l)
	if l.Alias != alias {
		p.do(SetAlias{Link: b.Name, Alias: alias})
	}
}

// bridgeMTU is the bridge's own; 0 leaves it to the kernel. A gateway must not keep what an
// earlier want gave it, since its taps do not.
func bridgeMTU(b Bridge) int {
	if b.MTU == 0 && b.Address.IsValid() && b.Uplink == "" {
		return defaultMTU
	}
	return b.MTU
}

// addrs makes want the only IPv4 address of the link.
func (p *planner) addrs(l Link, want netip.Prefix) {
	for _, a := range l.Addrs {
		if a.Addr().Is4() && a != want {
			p.do(DelAddr{Link: l.Name, Addr: a})
		}
	}
	if want.IsValid() && !slices.Contains(l.Addrs, want) {
		p.do(AddAddr{Link: l.Name, Addr: want})
	}
}

// checkUplink refuses an uplink that would be taken from someone, or whose addresses
// would be cut off.
func (p *planner) checkUplink(b Bridge) bool {
	if b.Uplink == "" {
		return true
	}
	subject := bridgeSubject(b.Name)
	u, ok := p.have.link(b.Uplink)
	switch {
	case !ok:
		p.block(subject, "the host has no interface %s to be its uplink", b.Uplink)
	case u.ours() || u.Kind == KindBridge:
		p.block(subject, "%s (%s) cannot be an uplink", u.Name, u.Kind)
	case b.UplinkVLAN != 0:
		return true
	case p.master(u) != "" && u.Master != b.Name:
		p.block(subject, "its uplink %s already belongs to %s", u.Name, u.Master)
	case p.master(u) == "" && len(u.Addrs) > 0:
		p.block(subject, "its uplink %s carries the address %s, which would be cut off; move it to the bridge first", u.Name, u.Addrs[0])
	default:
		return true
	}
	return false
}

// uplink plugs the bridge into the outside, and unplugs what it was plugged into before.
func (p *planner) uplink(b Bridge, l Link) {
	port := uplinkPort(b)
	old, ok := p.have.link(l.rememberedUplink())
	if ok && old.Name != port && old.Master == b.Name && !p.removed[old.Name] && !p.moved[old.Name] {
		p.do(SetMaster{Link: old.Name})
	}
	if port == "" {
		return
	}
	u, exists := p.have.link(port)
	if b.UplinkVLAN != 0 {
		// The VLAN carries frames only while its parent is up.
		if parent, ok := p.have.link(b.Uplink); ok && !parent.Up {
			p.do(SetUp{Link: b.Uplink, Up: true})
		}
		if !exists {
			p.do(AddVLAN{Name: port, Alias: markVLAN + b.Uplink, Parent: b.Uplink, ID: b.UplinkVLAN})
			u = Link{Name: port, Kind: KindVLAN}
		}
	}
	vlans := u.PortVLANs
	if u.Master != b.Name {
		p.do(SetMaster{Link: port, Master: b.Name})
		p.moved[port] = true
		vlans = freshPortVLANs(b)
	}
	if b.VLANFiltering {
		p.portVLANs(port, vlans, uplinkVLANs(b, p.want.Taps))
	}
	if !u.Up {
		p.do(SetUp{Link: port, Up: true})
	}
}

// tap plans one tap.
func (p *planner) tap(t Tap) {
	subject := tapSubject(t.Name)
	l, exists := p.have.link(t.Name)
	b := p.wantedBridge(t.Bridge)
	switch {
	case p.plan.Blocked[bridgeSubject(t.Bridge)] != nil:
		p.block(subject, "bridge %s: %w", t.Bridge, p.plan.Blocked[bridgeSubject(t.Bridge)])
		return
	case exists && (l.Kind != KindTap || !strings.HasPrefix(l.Alias, markTap)):
		p.block(subject, "the host has a link %s of type %s that is not ours", t.Name, l.Kind)
		return
	case !p.canFilterVLANs(t):
		p.block(subject, "bridge %s does not filter VLANs, so the tap cannot be in VLAN %d", t.Bridge, t.VLAN)
		return
	}
	p.about(subject, bridgeSubject(t.Bridge), subjectFilter)
	multi := t.Queues > 1
	remake := exists && !l.Carrier && (l.MultiQueue != multi || l.Owner != t.Owner || l.Group != t.Group)
	if remake {
		p.do(DelLink{Name: t.Name})
	}
	if !exists || remake {
		p.do(AddTap{Name: t.Name, Alias: tapAlias(t), Owner: t.Owner, Group: t.Group, MultiQueue: multi})
		l, exists = Link{Name: t.Name, Kind: KindTap, Alias: tapAlias(t), MTU: defaultMTU}, false
	}
	p.tapSettings(t, b, l, exists)
}

// tapSettings plans what can be changed while a machine holds the tap open.
func (p *planner) tapSettings(t Tap, b Bridge, l Link, exists bool) {
	if l.Alias != tapAlias(t) {
		p.do(SetAlias{Link: t.Name, Alias: tapAlias(t)})
	}
	if !sameMAC(l.MAC, tapMAC(t.MAC)) {
		p.do(SetMAC{Link: t.Name, MAC: tapMAC(t.MAC)})
	}
	if mtu := p.tapMTU(t, b); l.MTU != mtu {
		p.do(SetMTU{Link: t.Name, MTU: mtu})
	}
	p.sysctl(exists, sysctlIPv6(t.Name))
	vlans := l.PortVLANs
	if l.Master != t.Bridge {
		p.do(SetMaster{Link: t.Name, Master: t.Bridge})
		vlans = freshPortVLANs(b)
		l.Isolated = false
	}
	if b.VLANFiltering && p.canFilterVLANs(Tap{Bridge: t.Bridge, VLAN: defaultVLAN}) {
		p.portVLANs(t.Name, vlans, tapVLANs(t))
	}
	if isolated := t.Isolated || b.Isolated; l.Isolated != isolated {
		p.do(SetIsolated{Link: t.Name, On: isolated})
	}
	if l.Up == t.LinkDown {
		p.do(SetUp{Link: t.Name, Up: !t.LinkDown})
	}
}

// tapMTU is the tap's own MTU, or that of its bridge: a port with a smaller one would make
// the bridge's smaller too.
func (p *planner) tapMTU(t Tap, b Bridge) int {
	switch l, exists := p.have.link(b.Name); {
	case t.MTU != 0:
		return t.MTU
	case exists && !l.ours() && l.MTU != 0:
		return l.MTU
	case b.MTU != 0:
		return b.MTU
	}
	return defaultMTU
}

func (p *planner) wantedBridge(name string) Bridge {
	i := slices.IndexFunc(p.want.Bridges, func(b Bridge) bool { return b.Name == name })
	return p.want.Bridges[i]
}

// canFilterVLANs says whether the bridge of the tap can put it into its VLAN: it is ours,
// and will filter as wanted, or it is the host's and does.
func (p *planner) canFilterVLANs(t Tap) bool {
	if t.VLAN == 0 {
		return true
	}
	l, exists := p.have.link(t.Bridge)
	return !exists || l.ours() || l.VLANFiltering
}

// portVLANs moves a port from the VLANs it is in to those it should be in.
func (p *planner) portVLANs(link string, have, want []PortVLAN) {
	for _, v := range have {
		if !slices.ContainsFunc(want, func(w PortVLAN) bool { return w.ID == v.ID }) {
			p.do(DelPortVLAN{Link: link, ID: v.ID})
		}
	}
	for _, v := range want {
		if !slices.Contains(have, v) {
			p.do(AddPortVLAN{Link: link, VLAN: v})
		}
	}
}

// freshPortVLANs are those of a port that was just plugged in.
func freshPortVLANs(b Bridge) []PortVLAN {
	if !b.VLANFiltering {
		return nil
	}
	return []PortVLAN{{ID: defaultVLAN, PVID: true, Untagged: true}}
}

// tapVLANs are those of an access port.
func tapVLANs(t Tap) []PortVLAN {
	if t.VLAN == 0 || t.VLAN == defaultVLAN {
		return []PortVLAN{{ID: defaultVLAN, PVID: true, Untagged: true}}
	}
	var vlans []PortVLAN
	if t.PreserveDefaultVLAN {
		vlans = append(vlans, PortVLAN{ID: defaultVLAN, Untagged: true})
	}
	return append(vlans, PortVLAN{ID: t.VLAN, PVID: true, Untagged: true})
}

// uplinkVLANs are those of all taps on the bridge, with tags.
func uplinkVLANs(b Bridge, taps []Tap) []PortVLAN {
	vlans := []PortVLAN{{ID: defaultVLAN, PVID: true, Untagged: true}}
	for _, t := range taps {
		v := PortVLAN{ID: t.VLAN}
		if t.Bridge == b.Name && t.VLAN != 0 && t.VLAN != defaultVLAN && !slices.Contains(vlans, v) {
			vlans = append(vlans, v)
		}
	}
	slices.SortFunc(vlans, func(a, b PortVLAN) int { return a.ID - b.ID })
	return vlans
}
