package netplug

import (
	"net/netip"
	"slices"
	"strings"

	"virtmesh/netplug/ruleset"
)

// defaultMTU is the MTU of a link that the kernel has just made.
const defaultMTU = 1500

// defaultVLAN is the VLAN in which every port of a filtering bridge begins.
const defaultVLAN = 1

func hasChains(t ruleset.Table) bool { return len(t.Chains) > 0 }

// checkBridge reports whether the bridge is to be netplug's own, and blocks it if that is
// wanted and impossible.
func (p *planner) checkBridge(b Bridge) bool {
	subject := bridgeSubject(b.Name)
	l, exists := p.have.link(b.Name)
	switch {
	case exists && l.Kind != KindBridge:
		p.blockSubject(subject, "the host has a link %s of type %s", b.Name, l.Kind)
	case exists && !l.ours() && b.AllowExisting:
	case exists && !l.ours():
		p.blockSubject(subject, "the host has a bridge %s that virtmesh did not make", b.Name)
	default:
		return p.checkUplink(b)
	}
	return false
}

// planBridge plans one bridge of netplug's and its uplink.
func (p *planner) planBridge(b Bridge) {
	l, exists := p.have.link(b.Name)
	p.beginSubject(bridgeSubject(b.Name))
	alias := bridgeAlias(b, p.forwardingIsOurs())
	if !exists {
		p.addSteps(AddBridge{Name: b.Name, Alias: alias, VLANFiltering: b.VLANFiltering})
		l = Link{Name: b.Name, Kind: KindBridge, Alias: alias, MTU: defaultMTU, VLANFiltering: b.VLANFiltering}
	}
	if l.VLANFiltering != b.VLANFiltering {
		p.addSteps(SetVLANFiltering{Link: b.Name, On: b.VLANFiltering})
	}
	// A gateway has the same hardware address on every host. A bridge without an address,
	// or with an uplink that joins the bridges of many hosts, keeps the kernel's choice.
	if b.Address.IsValid() && b.Uplink == "" && !sameMAC(l.MAC, bridgeMAC(b.Name)) {
		p.addSteps(SetMAC{Link: b.Name, MAC: bridgeMAC(b.Name)})
	}
	if mtu := bridgeMTU(b); mtu != 0 && l.MTU != mtu {
		p.addSteps(SetMTU{Link: b.Name, MTU: mtu})
	}
	// Guests must not find link-local addresses of the host, nor give the host addresses
	// by router advertisements.
	p.planSysctl(exists, sysctlIPv6(b.Name))
	// Guests must not reach other IPv4 addresses of the host either. The host answers ARP
	// only for its address on the bridge (arp_ignore). It drops packets from a source that
	// is not routed back through the bridge (rp_filter), which is any source on a bridge
	// without an address. Both are a second line of defence behind the filter.
	p.planSysctl(exists, sysctlRPFilter(b.Name))
	p.planSysctl(exists, sysctlARPIgnore(b.Name))
	p.planAddrs(l, b.Address)
	if !l.Up {
		p.addSteps(SetUp{Link: b.Name, Up: true})
	}
	p.planUplink(b, l)
	if l.Alias != alias {
		p.addSteps(SetAlias{Link: b.Name, Alias: alias})
	}
}

// bridgeMTU returns the MTU to set on the bridge; 0 leaves it to the kernel. A gateway
// without an MTU is set to the default, because it must not keep the MTU of an earlier Want
// when its taps do not.
func bridgeMTU(b Bridge) int {
	if b.MTU == 0 && b.Address.IsValid() && b.Uplink == "" {
		return defaultMTU
	}
	return b.MTU
}

// planAddrs makes want the only IPv4 address of the link; an invalid want removes all.
func (p *planner) planAddrs(l Link, want netip.Prefix) {
	for _, a := range l.Addrs {
		if a.Addr().Is4() && a != want {
			p.addSteps(DelAddr{Link: l.Name, Addr: a})
		}
	}
	if want.IsValid() && !slices.Contains(l.Addrs, want) {
		p.addSteps(AddAddr{Link: l.Name, Addr: want})
	}
}

// checkUplink blocks the bridge if its uplink belongs to another bridge, or carries
// addresses that would be cut off. It returns false if it blocked the bridge.
func (p *planner) checkUplink(b Bridge) bool {
	if b.Uplink == "" {
		return true
	}
	subject := bridgeSubject(b.Name)
	u, ok := p.have.link(b.Uplink)
	switch {
	case !ok:
		p.blockSubject(subject, "its uplink %s does not exist on the host", b.Uplink)
	case u.ours() || u.Kind == KindBridge:
		p.blockSubject(subject, "%s (%s) cannot be an uplink", u.Name, u.Kind)
	case b.UplinkVLAN != 0:
		return true
	case p.master(u) != "" && u.Master != b.Name:
		p.blockSubject(subject, "its uplink %s already belongs to %s", u.Name, u.Master)
	case p.master(u) == "" && len(u.Addrs) > 0:
		p.blockSubject(subject, "its uplink %s carries the address %s, which would be cut off; move it to the bridge first", u.Name, u.Addrs[0])
	default:
		return true
	}
	return false
}

// planUplink plugs the uplink into the bridge, and unplugs an earlier uplink.
func (p *planner) planUplink(b Bridge, l Link) {
	port := uplinkPort(b)
	old, ok := p.have.link(l.rememberedUplink())
	if ok && old.Name != port && old.Master == b.Name && !p.removed[old.Name] && !p.moved[old.Name] {
		p.addSteps(SetMaster{Link: old.Name})
	}
	if port == "" {
		return
	}
	u, exists := p.have.link(port)
	if b.UplinkVLAN != 0 {
		// The VLAN carries frames only while its parent is up.
		if parent, ok := p.have.link(b.Uplink); ok && !parent.Up {
			p.addSteps(SetUp{Link: b.Uplink, Up: true})
		}
		if !exists {
			p.addSteps(AddVLAN{Name: port, Alias: markVLAN + b.Uplink, Parent: b.Uplink, ID: b.UplinkVLAN})
			u = Link{Name: port, Kind: KindVLAN}
		}
	}
	vlans := u.PortVLANs
	if u.Master != b.Name {
		p.addSteps(SetMaster{Link: port, Master: b.Name})
		p.moved[port] = true
		vlans = freshPortVLANs(b)
	}
	if b.VLANFiltering {
		p.planPortVLANs(port, vlans, uplinkVLANs(b, p.want.Taps))
	}
	if !u.Up {
		p.addSteps(SetUp{Link: port, Up: true})
	}
}

// planTap plans one tap.
func (p *planner) planTap(t Tap) {
	subject := tapSubject(t.Name)
	l, exists := p.have.link(t.Name)
	b := p.wantedBridge(t.Bridge)
	switch {
	case p.plan.Blocked[bridgeSubject(t.Bridge)] != nil:
		p.blockSubject(subject, "bridge %s: %w", t.Bridge, p.plan.Blocked[bridgeSubject(t.Bridge)])
		return
	case exists && (l.Kind != KindTap || !strings.HasPrefix(l.Alias, markTap)):
		p.blockSubject(subject, "the host has a link %s of type %s that virtmesh did not make", t.Name, l.Kind)
		return
	case !p.canFilterVLANs(t):
		p.blockSubject(subject, "bridge %s does not filter VLANs, so the tap cannot be in VLAN %d", t.Bridge, t.VLAN)
		return
	}
	p.beginSubject(subject, bridgeSubject(t.Bridge), subjectFilter)
	multi := t.Queues > 1
	remake := exists && !l.Carrier && (l.MultiQueue != multi || l.Owner != t.Owner || l.Group != t.Group)
	if remake {
		p.addSteps(DelLink{Name: t.Name})
	}
	if !exists || remake {
		p.addSteps(AddTap{Name: t.Name, Alias: tapAlias(t), Owner: t.Owner, Group: t.Group, MultiQueue: multi})
		l, exists = Link{Name: t.Name, Kind: KindTap, Alias: tapAlias(t), MTU: defaultMTU}, false
	}
	p.planTapSettings(t, b, l, exists)
}

// planTapSettings plans the settings that can be changed while a machine holds the tap
// open.
func (p *planner) planTapSettings(t Tap, b Bridge, l Link, exists bool) {
	if l.Alias != tapAlias(t) {
		p.addSteps(SetAlias{Link: t.Name, Alias: tapAlias(t)})
	}
	if !sameMAC(l.MAC, tapMAC(t.MAC)) {
		p.addSteps(SetMAC{Link: t.Name, MAC: tapMAC(t.MAC)})
	}
	if mtu := p.tapMTU(t, b); l.MTU != mtu {
		p.addSteps(SetMTU{Link: t.Name, MTU: mtu})
	}
	p.planSysctl(exists, sysctlIPv6(t.Name))
	vlans := l.PortVLANs
	if l.Master != t.Bridge {
		p.addSteps(SetMaster{Link: t.Name, Master: t.Bridge})
		vlans = freshPortVLANs(b)
		l.Isolated = false
	}
	if b.VLANFiltering && p.canFilterVLANs(Tap{Bridge: t.Bridge, VLAN: defaultVLAN}) {
		p.planPortVLANs(t.Name, vlans, tapVLANs(t))
	}
	if isolated := t.Isolated || b.Isolated; l.Isolated != isolated {
		p.addSteps(SetIsolated{Link: t.Name, On: isolated})
	}
	if l.Up == t.LinkDown {
		p.addSteps(SetUp{Link: t.Name, Up: !t.LinkDown})
	}
}

// tapMTU returns the tap's own MTU, or that of its bridge: a port with a smaller MTU would
// reduce the bridge's MTU too.
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

// canFilterVLANs reports whether the bridge of the tap can put it into its VLAN. A bridge
// of netplug can, because it will filter as wanted. A bridge of the host can if it filters
// VLANs already.
func (p *planner) canFilterVLANs(t Tap) bool {
	if t.VLAN == 0 {
		return true
	}
	l, exists := p.have.link(t.Bridge)
	return !exists || l.ours() || l.VLANFiltering
}

// planPortVLANs moves a port from the VLANs it is in (have) to those it should be in
// (want).
func (p *planner) planPortVLANs(link string, have, want []PortVLAN) {
	for _, v := range have {
		if !slices.ContainsFunc(want, func(w PortVLAN) bool { return w.ID == v.ID }) {
			p.addSteps(DelPortVLAN{Link: link, ID: v.ID})
		}
	}
	for _, v := range want {
		if !slices.Contains(have, v) {
			p.addSteps(AddPortVLAN{Link: link, VLAN: v})
		}
	}
}

// freshPortVLANs returns the VLANs of a port that was just plugged in.
func freshPortVLANs(b Bridge) []PortVLAN {
	if !b.VLANFiltering {
		return nil
	}
	return []PortVLAN{{ID: defaultVLAN, PVID: true, Untagged: true}}
}

// tapVLANs returns the VLANs of a tap as an access port.
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

// uplinkVLANs returns the VLANs of the uplink: the default VLAN untagged, and those of all
// taps on the bridge tagged.
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
