package kernel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtmesh/netplug/netplugtest"
)

// TestGuestFillsNoConnectionTable has a guest open connections to the outside and to its
// gateway. There is a limit for both together; what is open goes on, another guest does not
// notice, and the end of one makes room for the next.
func TestGuestFillsNoConnectionTable(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	const limit = 10
	b := newBed(t)
	b.want.MaxConnections = limit
	b.set()
	b.outside.Serve("10.50.0.2:80", "hello")
	greedy, _ := b.boot(b.want.Taps[0])
	other, _ := b.boot(b.want.Taps[1])
	forget := func() {
		t.Helper()
		if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			t.Fatal(err)
		}
	}
	forget() // what the DHCP clients began
	var open []net.Conn
	begin := func(h *netplugtest.Host, network, addr string) net.Conn {
		t.Helper()
		var conn net.Conn
		err := h.Do(func() (err error) {
			conn, err = net.DialTimeout(network, addr, silence)
			return err
		})
		if err != nil {
			return nil
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	for range 3 * limit {
		conn := begin(greedy.Host, "tcp", "10.50.0.2:80")
		if conn == nil {
			break
		}
		open = append(open, conn)
	}
	if len(open) != limit {
		t.Errorf("the guest has %d connections, want %d", len(open), limit)
	}
	if conn := begin(greedy.Host, "tcp", "10.9.0.1:53"); conn != nil {
		t.Error("beyond its limit the guest connects to its gateway")
	}
	if got, err := other.Get("10.50.0.2:80", patience); got != "hello" {
		t.Errorf("another guest gets %q: %v", got, err)
	}
	forget()
	if conn := begin(greedy.Host, "tcp", "10.50.0.2:80"); conn == nil {
		t.Error("without connections the guest gets none")
	}
}

// TestGuestsWithoutAddressesShareNoLimit has a guest say whatever it may without an address,
// and fill its own share of the table of connections. Other guests, and itself, get their
// addresses nevertheless.
func TestGuestsWithoutAddressesShareNoLimit(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	const limit = 10
	b := newBed(t)
	b.want.MaxConnections = limit
	b.set()
	greedy, _ := b.boot(b.want.Taps[0])
	card := openWire(t, greedy)
	for port := range 5 * uint16(limit) {
		for _, from := range []string{"0.0.0.0", "10.9.0.10"} {
			for _, to := range []string{"255.255.255.255", "10.9.0.1", "10.9.0.255", "10.50.0.1"} {
				card.send(frame(broadcast, macA, unix.ETH_P_IP, dhcpMessage(from, to, 1024+port)))
				card.send(frame(broadcast, macA, unix.ETH_P_IP, dhcpMessage(from, to, 68)))
			}
		}
	}
	b.boot(b.want.Taps[1])
	if out, err := greedy.Try("busybox", "udhcpc", "-i", "eth0", "-f", "-n", "-q", "-t", "5", "-T", "1", "-s", "/bin/true"); err != nil {
		t.Errorf("a guest with all its connections gets no address: %s", out)
	}
}

// dhcpMessage is an IPv4 packet, in hexadecimal digits, with what netplug looks at in a
// message of guest a to a DHCP server.
func dhcpMessage(from, to string, port uint16) string {
	src, dst := netip.MustParseAddr(from).As4(), netip.MustParseAddr(to).As4()
	text := fmt.Sprintf("45000050000100004011%04x%x%x", 0, src, dst)
	head := frame(nil, nil, 0, text)[2:22]
	sum := uint32(0)
	for i := 0; i < len(head); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(head[i:]))
	}
	sum = sum>>16 + sum&0xffff
	text = fmt.Sprintf("45000050000100004011%04x%x%x", ^uint16(sum>>16+sum&0xffff), src, dst)
	return text + fmt.Sprintf("%04x0043003c0000", port) + strings.Repeat("00", 28) + "02000000000a" + strings.Repeat("00", 18)
}
