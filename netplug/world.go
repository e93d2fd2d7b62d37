package netplug

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Kind is the kernel's name for the type of a link.
type Kind string

// The kinds that netplug distinguishes. Links of other types have the kernel's name.
const (
	KindBridge Kind = "bridge"
	KindTap    Kind = "tap"
	KindVLAN   Kind = "vlan"
	KindDevice Kind = "device"
	kindVeth   Kind = "veth"
)

// World is the network state of a host, as far as netplug needs it. A World returned by
// Kernel.Observe is never changed.
type World struct {
	Links []Link
	// Sysctls holds the values of the requested keys. A key that does not exist is absent.
	Sysctls map[string]string
	// Filter is the fingerprint of the loaded ruleset. It is empty if none is loaded, and
	// FilterChanged if someone else has changed the ruleset since it was loaded.
	Filter string
	// NoGates is set if the kernel was found to lack what gates need.
	NoGates bool
}

// FilterChanged stands for a ruleset that was changed after it was loaded.
const FilterChanged = "changed"

// Link is an interface of the host.
type Link struct {
	Name   string
	Kind   Kind
	Alias  string
	Master string
	MTU    int
	MAC    net.HardwareAddr
	Up     bool
	// Carrier is set only for taps: a process holds the tap open.
	Carrier bool
	// Addrs are the IPv4 and IPv6 addresses, without link-local ones.
	Addrs []netip.Prefix
	// Isolated is the flag of a bridge port.
	Isolated bool
	// VLANFiltering is set only for bridges.
	VLANFiltering bool
	// Gated is set only for bridges that netplug made: a gate is there, see SetGate.
	Gated bool
	// PortVLANs are the VLANs of a port of a bridge with VLAN filtering.
	PortVLANs []PortVLAN
	// Parent and VLANID are set only for VLANs.
	Parent string
	VLANID int
	// Owner, Group and MultiQueue are set only for taps.
	Owner, Group uint32
	MultiQueue   bool
}

// PortVLAN is the membership of a bridge port in a VLAN.
type PortVLAN struct {
	ID int
	// PVID is set for the VLAN that incoming frames without a tag belong to.
	PVID bool
	// Untagged says that frames of the VLAN leave the port without a tag.
	Untagged bool
}

// link returns the link with the name.
func (w World) link(name string) (Link, bool) {
	i := slices.IndexFunc(w.Links, func(l Link) bool { return l.Name == name })
	if i < 0 {
		return Link{}, false
	}
	return w.Links[i], true
}

// String prints the world, one line for each link in the order of names, in words close
// to ip(8).
func (w World) String() string {
	links := slices.Clone(w.Links)
	slices.SortFunc(links, func(a, b Link) int { return strings.Compare(a.Name, b.Name) })
	var b strings.Builder
	for _, l := range links {
		fmt.Fprintln(&b, l)
	}
	keys := make([]string, 0, len(w.Sysctls))
	for k := range w.Sysctls {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		fmt.Fprintf(&b, "sysctl %s=%s\n", k, w.Sysctls[k])
	}
	if w.Filter != "" {
		fmt.Fprintf(&b, "nft %s\n", w.Filter)
	}
	return b.String()
}

// String prints the link in words close to ip(8).
func (l Link) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "link %s type %s", l.Name, l.Kind)
	word := func(when bool, format string, args ...any) {
		if when {
			fmt.Fprintf(&b, " "+format, args...)
		}
	}
	word(l.Parent != "", "link %s id %d", l.Parent, l.VLANID)
	word(l.Master != "", "master %s", l.Master)
	word(l.MTU != 0, "mtu %d", l.MTU)
	word(len(l.MAC) != 0, "address %s", l.MAC)
	word(l.Owner != 0, "user %d", l.Owner)
	word(l.Group != 0, "group %d", l.Group)
	word(l.MultiQueue, "multi_queue")
	word(l.VLANFiltering, "vlan_filtering")
	word(l.Gated, "gated")
	word(l.Isolated, "isolated")
	word(l.Up, "up")
	word(l.Carrier, "carrier")
	for _, v := range l.PortVLANs {
		word(true, "%s", v)
	}
	for _, a := range l.Addrs {
		word(true, "addr %s", a)
	}
	word(l.Alias != "", "alias %q", l.Alias)
	return b.String()
}

// String prints the membership in the words of bridge(8).
func (v PortVLAN) String() string {
	s := fmt.Sprintf("vid %d", v.ID)
	if v.PVID {
		s += " pvid"
	}
	if v.Untagged {
		s += " untagged"
	}
	return s
}
