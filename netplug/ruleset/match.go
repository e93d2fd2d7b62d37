package ruleset

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Match is a condition on a packet. Only the types of this file implement it.
type Match interface {
	fmt.Stringer
	match()
}

// Direction names one of the two ends of a packet.
type Direction string

// The directions.
const (
	Source      Direction = "s"
	Destination Direction = "d"
)

// InInterface holds when the packet came in through Name. A trailing * matches any name with
// that prefix. In a bridge table the interface is the port, in other tables the bridge.
type InInterface struct {
	Name string
	Not  bool
}

// OutInterface holds when the packet goes out through Name; see InInterface.
type OutInterface struct {
	Name string
	Not  bool
}

// EtherSource holds when the frame's source address is MAC.
type EtherSource struct {
	MAC net.HardwareAddr
	Not bool
}

// ReservedMulticast holds when the frame's destination is one that IEEE 802.1Q reserves for
// talk between neighbours, 01:80:c2:00:00:00 to 01:80:c2:00:00:0f: spanning tree, pause, LACP,
// LLDP and others.
type ReservedMulticast struct{}

// Tagged holds when the frame has a tag of 802.1Q with a VLAN in it, or with Outer one of
// 802.1ad (bridge tables only). A tag with nothing but a priority does not count.
type Tagged struct{ Outer bool }

// LearnedMAC holds when Set has the frame's source address, or has room to take it.
type LearnedMAC struct{ Set string }

// ConnectionsOver holds when the packet is IPv4 and its source address has more than Limit
// connections, this one among them, of those that came by a rule with the same Set. The
// packet must begin a connection.
type ConnectionsOver struct {
	Set   string
	Limit int
}

// RouterAdvertisement holds when the packet is a router advertisement of IPv6.
type RouterAdvertisement struct{}

// Fragment holds when the packet is a part of one of IPv4.
type Fragment struct{}

// ARPSource holds when the packet is ARP for IPv4 and its sender address is Addr.
type ARPSource struct {
	Addr netip.Addr
}

// ARPSenderMAC holds when the packet is ARP and its sender hardware address is MAC.
type ARPSenderMAC struct {
	MAC net.HardwareAddr
	Not bool
}

// IPAddr holds when the packet is IPv4 and the address at the named end lies in Prefix.
type IPAddr struct {
	End    Direction
	Prefix netip.Prefix
	Not    bool
}

// IPAddrIn holds when the packet is IPv4 and the address at the named end lies in one of
// Prefixes, of which there must be at least one and no two may overlap. The cost for a
// packet does not depend on their number.
type IPAddrIn struct {
	End      Direction
	Prefixes []netip.Prefix
}

// NotIPv4 holds for a packet of another network protocol (inet tables only).
type NotIPv4 struct{}

// Protocol is a transport protocol.
type Protocol string

// The transport protocols that netplug distinguishes.
const (
	TCP Protocol = "tcp"
	UDP Protocol = "udp"
)

// Number returns the protocol's number on the wire.
func (p Protocol) Number() byte {
	if p == TCP {
		return 6
	}
	return 17
}

// Port holds when the packet is of the protocol and the port at the named end is Port.
type Port struct {
	Protocol Protocol
	End      Direction
	Port     uint16
}

// DHCPClientMAC holds when the client hardware address within a DHCP message is MAC. It
// follows a Port match, which makes sure that the packet is UDP.
type DHCPClientMAC struct {
	MAC net.HardwareAddr
	Not bool
}

// ICMPEcho holds for an IPv4 ping request.
type ICMPEcho struct{}

// Tracked holds for packets that belong to a connection that was let through before.
type Tracked struct{}

// Translated holds for packets whose destination was rewritten by a rule of the host's.
type Translated struct{}

func not(n bool) string {
	if n {
		return "!= "
	}
	return ""
}

// String prints the match as nft(8) reads it.
func (m InInterface) String() string { return fmt.Sprintf("iifname %s%q", not(m.Not), m.Name) }

// String prints the match as nft(8) reads it.
func (m OutInterface) String() string { return fmt.Sprintf("oifname %s%q", not(m.Not), m.Name) }

// String prints the match as nft(8) reads it.
func (m EtherSource) String() string { return fmt.Sprintf("ether saddr %s%s", not(m.Not), m.MAC) }

// String prints the match as nft(8) reads it.
func (ReservedMulticast) String() string {
	return "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00"
}

// String prints the match as nft(8) reads it.
func (m Tagged) String() string {
	if m.Outer {
		return "ether type 8021ad"
	}
	return "vlan id != 0"
}

// String prints the match as nft(8) reads it.
func (m LearnedMAC) String() string { return fmt.Sprintf("update @%s { ether saddr }", m.Set) }

// String prints the match as nft(8) reads it.
func (m ConnectionsOver) String() string {
	return fmt.Sprintf("add @%s { ip saddr ct count over %d }", m.Set, m.Limit)
}

// String prints the match as nft(8) reads it.
func (RouterAdvertisement) String() string { return "icmpv6 type nd-router-advert" }

// String prints the match as nft(8) reads it: an offset, or more fragments to come.
func (Fragment) String() string { return "ip frag-off & 0x3fff != 0" }

// String prints the match as nft(8) reads it.
func (m ARPSource) String() string { return "arp saddr ip " + m.Addr.String() }

// String prints the match as nft(8) reads it.
func (m ARPSenderMAC) String() string {
	return fmt.Sprintf("arp saddr ether %s%s", not(m.Not), m.MAC)
}

// String prints the match as nft(8) reads it.
func (m IPAddr) String() string {
	return fmt.Sprintf("ip %saddr %s%s", m.End, not(m.Not), printPrefix(m.Prefix))
}

// String prints the match as nft(8) reads it.
func (m IPAddrIn) String() string {
	list := make([]string, len(m.Prefixes))
	for i, p := range m.Prefixes {
		list[i] = printPrefix(p)
	}
	return fmt.Sprintf("ip %saddr { %s }", m.End, strings.Join(list, ", "))
}

func printPrefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.Masked().String()
}

// String prints the match as nft(8) reads it.
func (NotIPv4) String() string { return "meta nfproto != ipv4" }

// String prints the match as nft(8) reads it.
func (m Port) String() string { return fmt.Sprintf("%s %sport %d", m.Protocol, m.End, m.Port) }

// String prints the match as nft(8) reads it: 28 bytes into the message, which begins
// 8 bytes into the transport header.
func (m DHCPClientMAC) String() string {
	return fmt.Sprintf("@th,288,48 %s0x%s", not(m.Not), strings.ReplaceAll(m.MAC.String(), ":", ""))
}

// String prints the match as nft(8) reads it.
func (ICMPEcho) String() string { return "icmp type echo-request" }

// String prints the match as nft(8) reads it.
func (Tracked) String() string { return "ct state established,related" }

// String prints the match as nft(8) reads it.
func (Translated) String() string { return "ct status dnat" }

func (InInterface) match()         {}
func (OutInterface) match()        {}
func (EtherSource) match()         {}
func (ReservedMulticast) match()   {}
func (Tagged) match()              {}
func (LearnedMAC) match()          {}
func (ConnectionsOver) match()     {}
func (RouterAdvertisement) match() {}
func (Fragment) match()            {}
func (ARPSource) match()           {}
func (ARPSenderMAC) match()        {}
func (IPAddr) match()              {}
func (IPAddrIn) match()            {}
func (NotIPv4) match()             {}
func (Port) match()                {}
func (DHCPClientMAC) match()       {}
func (ICMPEcho) match()            {}
func (Tracked) match()             {}
func (Translated) match()          {}

// Verdict is what a rule does with a packet. Only the types below implement it.
type Verdict interface {
	fmt.Stringer
	verdict()
}

// Accept ends the table's evaluation of the packet and lets the packet pass.
type Accept struct{}

// Drop discards the packet without an answer.
type Drop struct{}

// Jump continues in another chain of the same table.
type Jump struct{ Chain string }

// Lookup applies the verdict that a map of the same table has for the interface through
// which the packet came in. If the map has no entry for the interface, the next rule is
// evaluated.
type Lookup struct{ Map string }

// SetMark sets bits of the packet's mark, and goes on with the next rule.
type SetMark struct{ Bits uint32 }

// Masquerade gives the packet the address of its outgoing interface as the source address.
type Masquerade struct{}

// String prints the verdict as nft(8) reads it.
func (Accept) String() string { return "accept" }

// String prints the verdict as nft(8) reads it.
func (Drop) String() string { return "drop" }

// String prints the verdict as nft(8) reads it.
func (v Jump) String() string { return "jump " + v.Chain }

// String prints the verdict as nft(8) reads it.
func (v Lookup) String() string { return "iifname vmap @" + v.Map }

// String prints the verdict as nft(8) reads it.
func (v SetMark) String() string { return fmt.Sprintf("meta mark set meta mark | %#x", v.Bits) }

// String prints the verdict as nft(8) reads it.
func (Masquerade) String() string { return "masquerade" }

func (Accept) verdict()     {}
func (Drop) verdict()       {}
func (Jump) verdict()       {}
func (Lookup) verdict()     {}
func (SetMark) verdict()    {}
func (Masquerade) verdict() {}
