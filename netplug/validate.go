package netplug

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// FieldError says what is wrong with one field of a Want.
type FieldError struct {
	Field  string
	Reason string
}

// Error implements error.
func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

// The smallest MTU that can carry IPv4, and the largest that the kernel takes.
const (
	minMTU = 68
	maxMTU = 65535
)

// maxMACs bounds Tap.MaxMACs.
const maxMACs = 4096

// checker collects faults, each with the path of its field.
type checker struct{ errs []error }

func (c *checker) bad(when bool, field, format string, args ...any) {
	if when {
		c.errs = append(c.errs, &FieldError{Field: field, Reason: fmt.Sprintf(format, args...)})
	}
}

// Validate returns all faults of the Want, each as a *FieldError. A Plug refuses a Want with
// any fault and then changes nothing.
func (w Want) Validate() error {
	var c checker
	bridges := make(map[string]Bridge, len(w.Bridges))
	for i, b := range w.Bridges {
		field := fmt.Sprintf("bridges[%d]", i)
		b.check(&c, field)
		_, twice := bridges[b.Name]
		c.bad(twice, field+".name", "%q is in the list twice", b.Name)
		bridges[b.Name] = b
	}
	checkOverlap(&c, w.Bridges)
	w.checkTaps(&c, bridges)
	w.checkAddresses(&c)
	for i, p := range w.Protected {
		c.bad(!p.IsValid(), fmt.Sprintf("protected[%d]", i), "is not a network")
	}
	for i, p := range w.Allowed {
		c.bad(!p.IsValid(), fmt.Sprintf("allowed[%d]", i), "is not a network")
	}
	c.bad(w.MaxConnections < 0, "maxConnections", "is negative")
	for i, u := range w.DNS.Upstreams {
		c.bad(!u.IsValid(), fmt.Sprintf("dns.upstreams[%d]", i), "is not an address with a port")
	}
	return errors.Join(c.errs...)
}

// Validate returns all faults of the bridge, without regard to the rest of a Want.
func (b Bridge) Validate() error {
	var c checker
	b.check(&c, "bridge")
	return errors.Join(c.errs...)
}

// Validate returns all faults of the tap, without regard to the rest of a Want.
func (t Tap) Validate() error {
	var c checker
	t.check(&c, "tap")
	return errors.Join(c.errs...)
}

func (b Bridge) check(c *checker, field string) {
	c.bad(!validName(b.Name), field+".name", "%q cannot name an interface", b.Name)
	c.bad(strings.HasPrefix(b.Name, TapPrefix) && len(b.Name) == maxName, field+".name",
		"%q could be the name of a tap", b.Name)
	c.checkMTU(b.MTU, field)
	c.bad(b.Uplink != "" && !validName(b.Uplink), field+".uplink", "%q cannot name an interface", b.Uplink)
	c.bad(b.UplinkVLAN != 0 && b.Uplink == "", field+".uplinkVLAN", "needs an uplink")
	c.checkVLAN(b.UplinkVLAN, field+".uplinkVLAN")
	gateway := b.Address.IsValid()
	c.bad(gateway && !b.Address.Addr().Is4(), field+".address", "%s is not IPv4", b.Address)
	c.bad(gateway && (b.Address.Bits() < 8 || b.Address.Bits() > 30), field+".address",
		"prefix length %d is not between 8 and 30", b.Address.Bits())
	c.bad(gateway && b.Address.Addr() == b.Address.Masked().Addr(), field+".address",
		"%s is the address of the subnet, not of a host", b.Address)
	c.bad(b.NAT && !gateway, field+".nat", "needs an address")
	c.bad(b.DHCP != nil && !gateway, field+".dhcp", "needs an address")
	c.bad(b.DNS && !gateway, field+".dns", "needs an address")
	c.bad(b.AllowExisting && gateway, field+".allowExisting", "cannot be combined with an address: the bridge may belong to the host")
	c.bad(b.DHCP != nil && b.DHCP.LeaseTime < 0, field+".dhcp.leaseTime", "is negative")
}

func (t Tap) check(c *checker, field string) {
	c.bad(!validName(t.Name) || !strings.HasPrefix(t.Name, TapPrefix), field+".name",
		"%q cannot name a tap: want %q and up to %d more bytes", t.Name, TapPrefix, maxName-len(TapPrefix))
	c.checkMTU(t.MTU, field)
	c.checkVLAN(t.VLAN, field+".vlan")
	c.bad(t.Queues < 0 || t.Queues > 256, field+".queues", "%d is not between 0 and 256", t.Queues)
	c.bad(t.MaxMACs < 0 || t.MaxMACs > maxMACs, field+".maxMACs", "%d is not between 0 and %d", t.MaxMACs, maxMACs)
	c.bad(len(t.MAC) != 6, field+".mac", "%q is not an Ethernet address", t.MAC)
	c.bad(len(t.MAC) == 6 && t.MAC[0]&1 == 1, field+".mac", "%s is a group address", t.MAC)
	c.bad(t.Address.IsValid() && !t.Address.Is4(), field+".address", "%s is not IPv4", t.Address)
	c.bad(strings.ContainsAny(t.Key(), "\n\x00"), field, "namespace, VM and interface must be plain names")
}

func (w Want) checkTaps(c *checker, bridges map[string]Bridge) {
	names := make(map[string]int, len(w.Taps))
	for i, t := range w.Taps {
		field := fmt.Sprintf("taps[%d]", i)
		t.check(c, field)
		first, twice := names[t.Name]
		c.bad(twice, field+".name", "%s is also taps[%d], of %s", t.Name, first, w.Taps[first].Key())
		names[t.Name] = i
		b, ok := bridges[t.Bridge]
		c.bad(!ok, field+".bridge", "%q is not in the list of bridges", t.Bridge)
		if !ok {
			continue
		}
		c.bad(t.VLAN != 0 && !b.VLANFiltering, field+".vlan", "bridge %s has no VLAN filtering", b.Name)
		if t.Address.IsValid() && b.Address.IsValid() {
			c.checkGuestAddr(b, t.Address, field+".address")
		}
	}
}

// checkAddresses checks that no two cards on one bridge have the same MAC or IP address.
func (w Want) checkAddresses(c *checker) {
	type place struct{ bridge, what string }
	seen := make(map[place]string)
	once := func(bridge, what, field string) {
		p := place{bridge, what}
		first, twice := seen[p]
		c.bad(twice, field, "%s is already that of %s", what, first)
		seen[p] = field
	}
	for i, t := range w.Taps {
		field := fmt.Sprintf("taps[%d]", i)
		once(t.Bridge, t.MAC.String(), field+".mac")
		if t.Address.IsValid() {
			once(t.Bridge, t.Address.String(), field+".address")
		}
	}
}

// checkOverlap checks that the subnets of bridges do not overlap, so that an address belongs
// to one bridge only, and that no two bridges have the same uplink.
func checkOverlap(c *checker, bridges []Bridge) {
	for i, a := range bridges {
		for j, b := range bridges[:i] {
			both := a.Address.IsValid() && b.Address.IsValid()
			c.bad(both && a.Address.Masked().Overlaps(b.Address.Masked()), fmt.Sprintf("bridges[%d].address", i),
				"%s overlaps %s of bridges[%d]", a.Address.Masked(), b.Address.Masked(), j)
			c.bad(a.Uplink != "" && a.Uplink == b.Uplink && a.UplinkVLAN == b.UplinkVLAN,
				fmt.Sprintf("bridges[%d].uplink", i), "%s is already that of bridges[%d]", a.Uplink, j)
		}
	}
}

func (c *checker) checkMTU(mtu int, field string) {
	c.bad(mtu != 0 && (mtu < minMTU || mtu > maxMTU), field+".mtu", "%d is not between %d and %d", mtu, minMTU, maxMTU)
}

func (c *checker) checkVLAN(id int, field string) {
	c.bad(id < 0 || id > 4094, field, "%d is not between 1 and 4094", id)
}

// checkGuestAddr checks that a guest of the bridge can have the address.
func (c *checker) checkGuestAddr(b Bridge, a netip.Addr, field string) {
	switch {
	case !a.Is4():
		c.bad(true, field, "%s is not IPv4", a)
	case !b.Address.IsValid():
	case !usable(b.Address.Masked(), a):
		c.bad(true, field, "%s cannot be a host of %s", a, b.Address.Masked())
	case a == b.Address.Addr():
		c.bad(true, field, "%s is the gateway of bridge %s", a, b.Name)
	}
}

// usable reports whether a host of the subnet can have the address: it lies in the subnet
// and is neither the network address nor the broadcast address.
func usable(subnet netip.Prefix, a netip.Addr) bool {
	return subnet.Contains(a) && a != subnet.Addr() && a != lastAddr(subnet)
}

// lastAddr returns the broadcast address of an IPv4 subnet.
func lastAddr(subnet netip.Prefix) netip.Addr {
	b := subnet.Masked().Addr().As4()
	for bit := subnet.Bits(); bit < 32; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(b)
}

// validName reports whether the kernel and nft(8) accept s as the name of an interface.
func validName(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) > maxName {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r)
		return !ok
	}) < 0
}

// sameMAC reports whether two hardware addresses are equal.
func sameMAC(a, b net.HardwareAddr) bool { return string(a) == string(b) }
