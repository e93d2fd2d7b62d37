package kernel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"virtmesh/netplug"
	"virtmesh/netplug/netplugtest"
)

// etherTest is a type of frames for experiments (IEEE 802).
const etherTest = 0x88b5

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// frame is an Ethernet frame with the payload in hexadecimal digits; spaces do not count.
func frame(dst, src net.HardwareAddr, etherType uint16, payload string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(payload, " ", ""))
	if err != nil {
		panic(err)
	}
	head := binary.BigEndian.AppendUint16(slices.Concat(dst, src), etherType)
	return append(slices.Concat(head, b), make([]byte, max(0, 46-len(b)))...)
}

// wire is the card of a guest, for whole frames.
type wire struct {
	t  *testing.T
	fd int
}

// openWire opens the card eth0 of a guest.
func openWire(t *testing.T, g *netplugtest.Guest) wire {
	t.Helper()
	var fd int
	err := g.Do(func() error {
		card, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in the order of the network
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: card.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	return wire{t, fd}
}

func (w wire) send(frame []byte) {
	w.t.Helper()
	if _, err := unix.Write(w.fd, frame); err != nil {
		w.t.Fatal(err)
	}
}

// passes reports whether a frame comes out at to: before another one from src, which follows
// it and must come.
func (w wire) passes(to wire, f []byte, src net.HardwareAddr) bool {
	w.t.Helper()
	return w.passesBefore(to, f, frame(broadcast, src, etherTest, hex.EncodeToString([]byte(w.t.Name()))))
}

func (w wire) passesBefore(to wire, f, last []byte) bool {
	w.t.Helper()
	w.send(f)
	w.send(last)
	passed := false
	for buf := make([]byte, 2048); ; {
		n, err := unix.Read(to.fd, buf)
		if err != nil {
			w.t.Fatalf("the frame that must pass does not come: %v", err)
		}
		switch {
		case bytes.Equal(buf[:n], last):
			return passed
		// The kernel takes a tag out of the frame that it shows.
		case bytes.HasPrefix(buf[:n], f[:12]) && bytes.HasSuffix(buf[:n], f[18:]):
			passed = true
		}
	}
}

const (
	// A router advertisement without options, a DHCP offer's headers, a spanning tree's
	// greeting and a tag of VLAN 7 before IPv4.
	routerAdvert = "60000000 0010 3a ff fe80000000000000 0000000000000001 ff02000000000000 0000000000000001" +
		"86 00 0000 40 00 0708 00000000 00000000"
	dhcpOffer = "45 00 002e 0000 0000 40 11 6ffa 0a630063 ffffffff 0043 0044 001a 0000 0201" +
		"00000000 00000000 00000000 00000000"
	dhcpOffer6 = "60000000 000a 11 ff fe80000000000000 0000000000000001 ff02000000000000 0000000000000001" +
		"0223 0222 000a 0000 0201"
	greeting = "4242 03 0000 00 00 00 0000000000000000 00000000 0000000000000000 8001 0000 1400 0200 0f00"
	tagged   = "0007 88b5 5401"
	priority = "6000 88b5 5402"
)

// TestFramesOnSecondNetworks has guests on a bridge for a second network, with and without
// what its definition may say.
func TestFramesOnSecondNetworks(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	b := newBed(t)
	b.want.Bridges = append(b.want.Bridges, netplug.Bridge{Name: "br1"})
	plain, guarded, trunk := b.card("plain", "br1", 0x11), b.card("guarded", "br1", 0x12), b.card("trunk", "br1", 0x13)
	peer := b.card("peer", "br1", 0x14)
	for i := range b.want.Taps {
		switch tap := &b.want.Taps[i]; tap.Name {
		case guarded.Name:
			tap.RAGuard, tap.DHCPGuard = true, true
		case trunk.Name:
			tap.TaggedFrames = true
		}
	}
	b.set()
	to := openWire(t, netplugtest.NewGuest(t, peer.Name, peer.MAC))
	cards := map[string]wire{}
	macs := map[string]net.HardwareAddr{"plain": plain.MAC, "guarded": guarded.MAC, "trunk": trunk.MAC}
	for name, tap := range map[string]string{"plain": plain.Name, "guarded": guarded.Name, "trunk": trunk.Name} {
		cards[name] = openWire(t, netplugtest.NewGuest(t, tap, macs[name]))
	}
	bpdu, lldp := net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}, net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0x0e}
	for _, tc := range []struct {
		name    string
		dst     net.HardwareAddr
		kind    uint16
		payload string
		pass    []string
	}{
		{"a frame", broadcast, etherTest, "5400", []string{"guarded", "plain", "trunk"}},
		{"spanning tree", bpdu, 38, greeting, nil},
		{"LLDP", lldp, 0x88cc, "0207 04", nil},
		{"a router advertisement", net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, unix.ETH_P_IPV6, routerAdvert, []string{"plain", "trunk"}},
		{"a DHCP offer", broadcast, unix.ETH_P_IP, dhcpOffer, []string{"plain", "trunk"}},
		{"an offer of DHCPv6", broadcast, unix.ETH_P_IPV6, dhcpOffer6, []string{"plain", "trunk"}},
		{"a tag of VLAN 7", broadcast, unix.ETH_P_8021Q, tagged, []string{"trunk"}},
		{"a tag of a provider", broadcast, unix.ETH_P_8021AD, tagged, []string{"trunk"}},
		{"a tag of a priority", broadcast, unix.ETH_P_8021Q, priority, []string{"guarded", "plain", "trunk"}},
	} {
		for name, from := range cards {
			if got, want := from.passes(to, frame(tc.dst, macs[name], tc.kind, tc.payload), macs[name]), slices.Contains(tc.pass, name); got != want {
				t.Errorf("%s of guest %s passes: %v, want %v", tc.name, name, got, want)
			}
		}
	}
}

// TestGuestFillsNoSwitch has a guest that sends from ever more addresses: those that it had
// go on working, more do not pass.
func TestGuestFillsNoSwitch(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	const limit = 8
	b := newBed(t)
	b.want.Bridges = append(b.want.Bridges, netplug.Bridge{Name: "br1"})
	many, peer := b.card("many", "br1", 0x11), b.card("peer", "br1", 0x12)
	for i := range b.want.Taps {
		if b.want.Taps[i].Name == many.Name {
			b.want.Taps[i].MaxMACs, b.want.Taps[i].MACSpoofCheck = limit, false
		}
	}
	b.set()
	from, to := openWire(t, netplugtest.NewGuest(t, many.Name, many.MAC)), openWire(t, netplugtest.NewGuest(t, peer.Name, peer.MAC))
	from.passes(to, frame(broadcast, many.MAC, etherTest, "5400"), many.MAC)
	passed := 0
	for n := range 100 {
		if from.passes(to, frame(broadcast, net.HardwareAddr{2, 0, 0, 1, 0, byte(n)}, etherTest, "5401"), many.MAC) {
			passed++
		}
	}
	if passed != limit-1 {
		t.Errorf("frames of %d addresses besides the guest's own pass, want %d", passed, limit-1)
	}
	if learned := strings.Count(netplugtest.Run(t, "bridge", "fdb", "show", "dev", many.Name), "02:00:00:01:00:"); learned != passed {
		t.Errorf("the bridge has learned %d addresses, want %d", learned, passed)
	}
}

// TestDHCPInParts has a guest send parts of IPv4 packets. Its message to a DHCP server passes
// whole, in parts it does not: only the first part says what it is.
func TestDHCPInParts(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	// Otherwise the kernel puts parts together on a bridge.
	netplugtest.Run(t, "sysctl", "-q", "-e", "-w", "net.bridge.bridge-nf-call-iptables=0")
	b := newBed(t)
	b.set()
	a := b.want.Taps[0]
	from, to := openWire(t, netplugtest.NewGuest(t, a.Name, a.MAC)), openWire(t, netplugtest.NewGuest(t, b.want.Taps[1].Name, b.want.Taps[1].MAC))
	last := frame(broadcast, a.MAC, unix.ETH_P_ARP, "0001 0800 06 04 0001 02000000000a 0a09000a 000000000000 0a090063")
	for name, tc := range map[string]struct {
		fragment, port string
		passes         bool
	}{
		"a message to a DHCP server": {"0000", "0043", true},
		"its first part":             {"2000", "0043", false},
		"a part of another":          {"2000", "0009", true},
	} {
		// From its own address, and with its own hardware address in the message if it is whole.
		f := frame(broadcast, a.MAC, unix.ETH_P_IP, "45 00 0050 0001 "+tc.fragment+" 40 11 0000 0a09000a ffffffff"+
			"0044 "+tc.port+" 003c 0000"+strings.Repeat("00", 28)+"02000000000a"+strings.Repeat("00", 18))
		if got := from.passesBefore(to, f, last); got != tc.passes {
			t.Errorf("%s passes: %v, want %v", name, got, tc.passes)
		}
	}
}
