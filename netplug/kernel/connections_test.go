package kernel

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"

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
