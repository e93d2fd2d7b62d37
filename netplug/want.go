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

// Want is the whole wanted network of a host. What is not in it is not wanted, and goes
// if it is ours.
type Want struct {
	Bridges []Bridge
	Taps    []Tap
	DNS     DNS
	// Protected are networks that guests behind NAT may not open connections to, for
	// example the management network of the hosts.
	Protected []netip.Prefix
}

// Bridge is a switch within the host.
type Bridge struct {
	// Name of the interface, at most 15 bytes.
	Name string
	// MTU in bytes; 0 leaves the kernel's choice, the smallest of the ports, or stands for
	// 1500 with an Address and no Uplink.
	MTU int
	// Address is the host's own address on the bridge, the gateway of its guests, with
	// the length of the subnet. IPv4; the zero value for a bridge without one.
	Address netip.Prefix
	// Uplink is an interface of the host to plug into the bridge, so that the network
	// spans hosts. It must carry no addresses: plugging it in would cut them off.
	Uplink string
	// UplinkVLAN plugs in a VLAN of the uplink in place of the uplink itself; 0 for none.
	UplinkVLAN int
	// VLANFiltering lets taps of the bridge have VLANs of their own. The uplink carries
	// them tagged.
	VLANFiltering bool
	// NAT sends traffic of the subnet out under the host's addresses, and lets no one
	// open connections to the guests from outside, unless a rule of the administrator's
	// redirects them there.
	NAT bool
	// Isolated keeps the guests of the bridge from talking to one another.
	Isolated bool
	// AllowExisting uses a bridge of this name that the host already has. Such a bridge
	// is never changed or removed, so the other fields do not apply to it.
	AllowExisting bool
	// DHCP serves the guests of the bridge; nil for no service. Needs Address.
	DHCP *DHCP
	// DNS answers the guests' queries on the gateway address. Needs Address.
	DNS bool
}

// DHCP is what guests of a bridge are told, besides their own address.
type DHCP struct {
	// LeaseTime is how long a lease lasts; 0 stands for an hour.
	LeaseTime time.Duration
	// DNSServers are the name servers to announce; none stands for the gateway if the
	// bridge has DNS.
	DNSServers []netip.Addr
	// Domain is the guest's domain, and Search the domains it searches. If there is a
	// Domain and no Search, a guest searches that of its namespace, NAMESPACE.Domain, and
	// then Domain.
	Domain string
	Search []string
}

// Tap is the network card of a guest, seen from the host.
type Tap struct {
	// Name of the interface, beginning with TapPrefix: see TapName.
	Name string
	// Namespace, VM and Interface say whose it is, for labels and messages.
	Namespace, VM, Interface string
	// Bridge the tap is plugged into.
	Bridge string
	// MTU in bytes; 0 stands for the bridge's, or 1500 if that has none either.
	MTU int
	// Owner and Group may open the tap without privileges. libvirt opens taps itself and
	// hands them to QEMU, so both may be 0.
	Owner, Group uint32
	// Queues of the card. A tap with more than one can only be opened with more than
	// one, and the other way round, so this must agree with the domain.
	Queues int
	// MAC is the guest's address.
	MAC net.HardwareAddr
	// Address is the guest's IPv4 address where the host gives it one: DHCP serves it,
	// and with IPSpoofCheck the guest can use no other.
	Address netip.Addr
	// Hostname is told by DHCP.
	Hostname string
	// Options are further DHCP options for this guest.
	Options dhcp.Options
	// MACSpoofCheck lets only frames from MAC out of the guest.
	MACSpoofCheck bool
	// IPSpoofCheck lets only ARP and IPv4 from Address out of the guest.
	IPSpoofCheck bool
	// VLAN makes the tap an access port of a VLAN; 0 for none. Needs a bridge with
	// VLANFiltering.
	VLAN int
	// PreserveDefaultVLAN leaves the tap in the bridge's default VLAN as well.
	PreserveDefaultVLAN bool
	// Isolated keeps the guest from talking to other isolated ones on the bridge.
	Isolated bool
	// LinkDown keeps the card without a link.
	LinkDown bool
}

// Key names the tap in messages: namespace/vm/interface.
func (t Tap) Key() string { return t.Namespace + "/" + t.VM + "/" + t.Interface }

// DNS is what the name servers of all bridges answer.
type DNS struct {
	// Domain the records are in; queries for other names go to Upstreams.
	Domain string
	// Records by name relative to Domain, such as "vm.namespace".
	Records map[string][]netip.Addr
	// Upstreams answer for other names; none stands for those of resolv.conf.
	Upstreams []netip.AddrPort
}

// TapPrefix begins the name of every tap. A link of a guest is recognised by it at
// sight, and the packet filter drops what comes in through a tap it does not know.
const TapPrefix = "vm-"

// maxName is the longest name the kernel takes for an interface.
const maxName = 15

// TapName returns the name of the tap for an interface of a VM. It depends on nothing
// else, so source and target of a migration and an agent after a restart agree on it.
func TapName(namespace, vm, iface string) string {
	return hashedName(TapPrefix, namespace, vm, iface)
}

// vlanPrefix begins the name of a VLAN of an uplink. It differs from TapPrefix, since the
// packet filter drops what comes in through a tap it does not know.
const vlanPrefix = "vl-"

// vlanName returns the name for a VLAN of an uplink.
func vlanName(uplink string, id int) string {
	return hashedName(vlanPrefix, uplink, strconv.Itoa(id))
}

// hashedName fills the 15 bytes that the kernel allows: 60 bits of hash behind the
// prefix, so that two of a million names collide with a chance below one in a million.
func hashedName(prefix string, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	enc := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:8]))
	return prefix + enc[:maxName-len(prefix)]
}

// tapMAC returns the address of the host's end of the tap. It begins with fe as
// libvirt's does, so that a bridge, which takes the lowest address of its ports, never
// takes a guest's.
func tapMAC(guest net.HardwareAddr) net.HardwareAddr {
	mac := append(net.HardwareAddr(nil), guest...)
	mac[0] = 0xfe
	return mac
}

// bridgeMAC returns the address of a gateway. It depends on the name only, so a guest
// that moves to another host finds its gateway at the same address.
func bridgeMAC(name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("bridge\x00" + name))
	return net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]}
}
