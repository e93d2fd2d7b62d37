package netplug

import (
	"crypto/sha256"
	"encoding/base32"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"virtmesh/netplug/dhcp"
)

// Want is the whole wanted network of a host. Anything that netplug made and that is not
// in the Want is removed.
type Want struct {
	Bridges []Bridge
	Taps    []Tap
	DNS     DNS
	// Protected are networks that guests of bridges with an address may not open connections
	// to, for example the management network of the hosts. Only IPv4 networks count: IPv6
	// of these guests is dropped altogether.
	Protected []netip.Prefix
	// Allowed are networks that they may open connections to though Protected holds them,
	// or though a rule of the administrator redirects the connections there. It does not
	// open this host itself, nor the guests of other bridges.
	Allowed []netip.Prefix
	// MaxConnections is how many connections a guest of a bridge with an address may have to
	// the host and through it at a time; 0 for any number.
	MaxConnections int
	// Router says that the host forwards traffic of others by its administrator's wish.
	// Otherwise such traffic is dropped if forwarding was off before netplug needed it.
	Router bool
}

// Bridge is a switch within the host.
type Bridge struct {
	// Name of the interface, at most 15 bytes.
	Name string
	// MTU in bytes. 0 means 1500 if the bridge has an Address and no Uplink; otherwise it
	// leaves the MTU to the kernel, which takes the smallest MTU of the ports.
	MTU int
	// Address is the host's IPv4 address on the bridge, with the prefix length of the
	// subnet. It is the gateway of the guests. The zero value means no address.
	Address netip.Prefix
	// Uplink is an interface of the host to plug into the bridge, so that the network
	// spans hosts. It must carry no addresses: plugging it in would cut them off.
	Uplink string
	// UplinkVLAN, if not 0, plugs in this VLAN of the uplink in place of the uplink
	// itself.
	UplinkVLAN int
	// VLANFiltering lets taps of the bridge be in VLANs. The uplink carries these VLANs
	// tagged.
	VLANFiltering bool
	// NAT sends traffic of the subnet out under the host's addresses. Nobody outside can
	// then open connections to the guests, except connections that a rule of the
	// administrator redirects to them.
	NAT bool
	// Isolated prevents the guests of the bridge from talking to each other.
	Isolated bool
	// AllowExisting allows taps on a bridge of this name that the host already has. Such
	// a bridge is never changed or removed, so the other fields do not apply to it.
	AllowExisting bool
	// DHCP serves the guests of the bridge; nil for no service. Needs Address.
	DHCP *DHCP
	// DNS answers the guests' queries on the gateway address. Needs Address.
	DNS bool
}

// DHCP is what DHCP announces to the guests of a bridge, besides their own address.
type DHCP struct {
	// LeaseTime is how long a lease lasts; 0 stands for an hour.
	LeaseTime time.Duration
	// DNSServers are the name servers to announce. If there are none and the bridge has
	// DNS, the gateway is announced.
	DNSServers []netip.Addr
	// Domain is the guest's domain, and Search are the domains it searches. If Domain is
	// set and Search is empty, a guest searches NAMESPACE.Domain and then Domain.
	Domain string
	Search []string
}

// Tap is the network card of a guest, seen from the host.
type Tap struct {
	// Name of the interface, beginning with TapPrefix: see TapName.
	Name string
	// Namespace, VM and Interface identify the guest's interface in messages.
	Namespace, VM, Interface string
	// Bridge the tap is plugged into.
	Bridge string
	// MTU in bytes; 0 means the MTU of the bridge, or 1500 if that is 0 too.
	MTU int
	// Owner and Group may open the tap without privileges. libvirt opens taps itself and
	// hands them to QEMU, so both may be 0.
	Owner, Group uint32
	// Queues is the number of queues of the card. A tap made for more than one queue can
	// only be opened with more than one, and a tap made for one only with one, so this
	// must agree with the domain.
	Queues int
	// MAC is the guest's hardware address.
	MAC net.HardwareAddr
	// Address is the IPv4 address that the host assigns to the guest, if it does: DHCP
	// serves the address, and with IPSpoofCheck the guest can use no other.
	Address netip.Addr
	// Hostname is announced by DHCP.
	Hostname string
	// Options are further DHCP options for this guest.
	Options dhcp.Options
	// MACSpoofCheck drops frames from the guest whose source address is not MAC.
	MACSpoofCheck bool
	// IPSpoofCheck drops everything from the guest except DHCP requests, and ARP and IPv4
	// with the source address Address.
	IPSpoofCheck bool
	// MaxMACs is how many source addresses the guest may use at a time if MACSpoofCheck is
	// off; 0 for any number. Each counts until it was silent for as long as a bridge
	// remembers it.
	MaxMACs int
	// TaggedFrames lets frames with VLAN tags of the guest's own through.
	TaggedFrames bool
	// RAGuard drops router advertisements from the guest, DHCPGuard what a DHCP server
	// sends.
	RAGuard, DHCPGuard bool
	// VLAN, if not 0, makes the tap an access port of this VLAN. Needs a bridge with
	// VLANFiltering.
	VLAN int
	// PreserveDefaultVLAN leaves the tap in the bridge's default VLAN as well.
	PreserveDefaultVLAN bool
	// Isolated prevents the guest from talking to other isolated guests on the bridge.
	Isolated bool
	// LinkDown keeps the tap down, so that the guest's card has no link.
	LinkDown bool
}

// Key returns the name of the tap in messages: namespace/vm/interface.
func (t Tap) Key() string { return t.Namespace + "/" + t.VM + "/" + t.Interface }

// DNS is what the name servers of all bridges answer with.
type DNS struct {
	// Domain is the domain of the records. Queries for other names go to Upstreams.
	Domain string
	// Records holds addresses by name relative to Domain, such as "vm.namespace".
	Records map[string][]netip.Addr
	// Upstreams answer for other names. If there are none, those of resolv.conf do.
	Upstreams []netip.AddrPort
}

// TapPrefix begins the name of every tap. It shows which links belong to guests, and the
// packet filter drops everything that comes in through an unknown tap with this prefix.
const TapPrefix = "vm-"

// maxName is the longest name the kernel takes for an interface.
const maxName = 15

// TapName returns the name of the tap for an interface of a VM. The name depends only on
// the arguments, so it is the same on the source and the target of a migration and after
// a restart of the agent.
func TapName(namespace, vm, iface string) string {
	return hashedName(TapPrefix, namespace, vm, iface)
}

// vlanPrefix begins the name of a VLAN of an uplink. It differs from TapPrefix, because
// the packet filter drops everything that comes in through an unknown tap.
const vlanPrefix = "vl-"

// vlanName returns the name for a VLAN of an uplink.
func vlanName(uplink string, id int) string {
	return hashedName(vlanPrefix, uplink, strconv.Itoa(id))
}

// hashedName returns a name of 15 bytes, the most that the kernel allows: the prefix and
// 60 bits of a hash of parts. Among a million names, the chance that any two are equal is
// below one in a million.
func hashedName(prefix string, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	enc := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:8]))
	return prefix + enc[:maxName-len(prefix)]
}

// tapMAC returns the hardware address of the host's end of the tap. It begins with fe, as
// with libvirt, because a bridge takes the lowest address of its ports and must never
// take a guest's.
func tapMAC(guest net.HardwareAddr) net.HardwareAddr {
	mac := append(net.HardwareAddr(nil), guest...)
	mac[0] = 0xfe
	return mac
}

// bridgeMAC returns the hardware address of a gateway. It depends only on the name of the
// bridge, so a guest that moves to another host finds its gateway at the same hardware
// address.
func bridgeMAC(name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("bridge\x00" + name))
	return net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]}
}
