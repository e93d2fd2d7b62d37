package netplug

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Kind is the kernel's word for what a link is.
type Kind string

// The kinds netplug tells apart; links of other kinds carry the kernel's own word.
const (
	KindBridge Kind = "bridge"
	KindTap    Kind = "tap"
	KindVLAN   Kind = "vlan"
	KindDevice Kind = "device"
)

// World is the state of a host as far as netplug is concerned. It is a value: what
// Kernel.Observe returned is never changed.
type World struct {
	Links []Link
	// Sysctls by key, as asked for; a key that does not exist is absent.
	Sysctls map[string]string
	// Filter is the fingerprint of the loaded ruleset: empty for none, FilterChanged for
	// one that someone else has changed since.
	Filter string
}

// FilterChanged stands for a ruleset that is not as it was loaded.
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
	// Carrier of a tap says that someone holds it open.
	Carrier bool
	// Addrs are the global IPv4 and IPv6 addresses.
	Addrs []netip.Prefix
	// Isolated is the port flag of a link within a bridge.
	Isolated bool
	// VLANFiltering is a bridge's.
	VLANFiltering bool
	// PortVLANs are those of a port of a filtering bridge.
	PortVLANs []PortVLAN
	// Parent and VLANID are a VLAN's.
	Parent string
	VLANID int
	// Owner, Group and MultiQueue are a tap's.
	Owner, Group uint32
	MultiQueue   bool
}

// PortVLAN is the membership of a bridge port in a VLAN.
type PortVLAN struct {
	ID int
	// PVID is set for the VLAN that frames without a tag belong to as they come in.
	PVID bool
	// Untagged frames go out without the tag.
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
