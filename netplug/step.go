package netplug

import (
	"fmt"
	"net"
	"net/netip"

	"virtmesh/netplug/ruleset"
)

// Step is one change to the host, which belongs to Subject. If it fails, the later steps
// of the subject, and of the subjects that need it, are skipped.
type Step struct {
	Subject string
	Needs   []string
	Op      Op
}

// String prints the change in words close to ip(8).
func (s Step) String() string { return s.Op.String() }

// Op is a single change to the host. Only the types of this file implement it. Carrying
// out an Op a second time may fail; the planner adds an Op only if it is needed.
type Op interface {
	fmt.Stringer
	op()
}

// AddBridge makes a bridge. From the start it carries the alias that marks it as
// netplug's.
type AddBridge struct {
	Name, Alias   string
	VLANFiltering bool
}

// AddTap makes a persistent tap that nobody holds open. From the start it carries the
// alias that marks it as netplug's.
type AddTap struct {
	Name, Alias  string
	Owner, Group uint32
	MultiQueue   bool
}

// AddVLAN makes a VLAN of a link. From the start it carries the alias that marks it as
// netplug's.
type AddVLAN struct {
	Name, Alias, Parent string
	ID                  int
}

// DelLink removes a link.
type DelLink struct{ Name string }

// SetAlias sets a link's alias.
type SetAlias struct{ Link, Alias string }

// SetMTU sets a link's MTU.
type SetMTU struct {
	Link string
	MTU  int
}

// SetMAC sets a link's hardware address.
type SetMAC struct {
	Link string
	MAC  net.HardwareAddr
}

// SetMaster plugs a link into a bridge; an empty master unplugs it.
type SetMaster struct{ Link, Master string }

// SetIsolated sets whether a bridge port is prevented from talking to other isolated
// ports.
type SetIsolated struct {
	Link string
	On   bool
}

// SetVLANFiltering turns VLAN filtering of a bridge on or off.
type SetVLANFiltering struct {
	Link string
	On   bool
}

// SetGate makes a gate at a bridge: what comes in from its ports for the host, or to be
// routed, is dropped unless the packet filter marked it with GateMark. The gate is no part of
// nftables, so it holds while something else has removed the filter.
type SetGate struct{ Link string }

// SetUp brings a link up or down.
type SetUp struct {
	Link string
	Up   bool
}

// AddAddr gives a link an address.
type AddAddr struct {
	Link string
	Addr netip.Prefix
}

// DelAddr takes an address from a link.
type DelAddr struct {
	Link string
	Addr netip.Prefix
}

// AddPortVLAN puts a bridge port into a VLAN.
type AddPortVLAN struct {
	Link string
	VLAN PortVLAN
}

// DelPortVLAN takes a bridge port out of a VLAN.
type DelPortVLAN struct {
	Link string
	ID   int
}

// SetSysctl sets a kernel parameter. Key is the path below /proc/sys. If Optional is set,
// a parameter that does not exist is no error, such as one of IPv6 on a host without IPv6.
type SetSysctl struct {
	Key, Value string
	Optional   bool
}

// LoadFilter replaces the packet filter as one transaction.
type LoadFilter struct{ Ruleset ruleset.Ruleset }

// String prints the change.
func (o AddBridge) String() string {
	s := fmt.Sprintf("ip link add %s type bridge", o.Name)
	if o.VLANFiltering {
		s += " vlan_filtering 1"
	}
	return s
}

// String prints the change.
func (o AddTap) String() string {
	s := fmt.Sprintf("ip tuntap add %s mode tap vnet_hdr", o.Name)
	if o.MultiQueue {
		s += " multi_queue"
	}
	if o.Owner != 0 {
		s += fmt.Sprintf(" user %d", o.Owner)
	}
	if o.Group != 0 {
		s += fmt.Sprintf(" group %d", o.Group)
	}
	return s
}

// String prints the change.
func (o AddVLAN) String() string {
	return fmt.Sprintf("ip link add link %s name %s type vlan id %d", o.Parent, o.Name, o.ID)
}

// String prints the change.
func (o DelLink) String() string { return "ip link del " + o.Name }

// String prints the change.
func (o SetAlias) String() string { return fmt.Sprintf("ip link set %s alias %q", o.Link, o.Alias) }

// String prints the change.
func (o SetMTU) String() string { return fmt.Sprintf("ip link set %s mtu %d", o.Link, o.MTU) }

// String prints the change.
func (o SetMAC) String() string { return fmt.Sprintf("ip link set %s address %s", o.Link, o.MAC) }

// String prints the change.
func (o SetMaster) String() string {
	if o.Master == "" {
		return fmt.Sprintf("ip link set %s nomaster", o.Link)
	}
	return fmt.Sprintf("ip link set %s master %s", o.Link, o.Master)
}

// String prints the change.
func (o SetIsolated) String() string {
	return fmt.Sprintf("bridge link set dev %s isolated %s", o.Link, onOff(o.On))
}

// String prints the change.
func (o SetVLANFiltering) String() string {
	return fmt.Sprintf("ip link set %s type bridge vlan_filtering %d", o.Link, map[bool]int{true: 1}[o.On])
}

// String prints the change.
func (o SetGate) String() string {
	return fmt.Sprintf("tc filter replace dev %s ingress bpf direct-action virtmesh", o.Link)
}

// String prints the change.
func (o SetUp) String() string {
	if o.Up {
		return fmt.Sprintf("ip link set %s up", o.Link)
	}
	return fmt.Sprintf("ip link set %s down", o.Link)
}

// String prints the change.
func (o AddAddr) String() string { return fmt.Sprintf("ip addr add %s dev %s", o.Addr, o.Link) }

// String prints the change.
func (o DelAddr) String() string { return fmt.Sprintf("ip addr del %s dev %s", o.Addr, o.Link) }

// String prints the change.
func (o AddPortVLAN) String() string {
	return fmt.Sprintf("bridge vlan add dev %s %s", o.Link, o.VLAN)
}

// String prints the change.
func (o DelPortVLAN) String() string {
	return fmt.Sprintf("bridge vlan del dev %s vid %d", o.Link, o.ID)
}

// String prints the change.
func (o SetSysctl) String() string { return fmt.Sprintf("sysctl -w %s=%s", o.Key, o.Value) }

// String prints the change; the ruleset prints itself.
func (o LoadFilter) String() string { return "nft -f " + o.Ruleset.Fingerprint() }

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func (SetVLANFiltering) op() {}
func (AddBridge) op()        {}
func (AddTap) op()           {}
func (AddVLAN) op()          {}
func (DelLink) op()          {}
func (SetAlias) op()         {}
func (SetMTU) op()           {}
func (SetMAC) op()           {}
func (SetMaster) op()        {}
func (SetIsolated) op()      {}
func (SetGate) op()          {}
func (SetUp) op()            {}
func (AddAddr) op()          {}
func (DelAddr) op()          {}
func (AddPortVLAN) op()      {}
func (DelPortVLAN) op()      {}
func (SetSysctl) op()        {}
func (LoadFilter) op()       {}
