package executor

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/port/guests"
)

// listen accepts connections as a guest at the address of its card does, and echoes.
func listen(t *testing.T, w *world) (port uint16) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); conn.Close() }()
		}
	}()
	w.network.address = "127.0.0.1"
	return uint16(listener.Addr().(*net.TCPAddr).Port)
}

// A forwarded connection carries bytes both ways and ends with the guest, which may leave
// nothing that would tell the other side.
func TestAForwardedPortEndsWithItsGuest(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	port := listen(t, w)
	open := func() io.ReadWriteCloser {
		t.Helper()
		conn, err := w.executor.Guests().Stream(t.Context(), "ns", "a", guests.StreamRequest{Kind: guests.Forward, Protocol: guests.TCP, Port: port})
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	first, second := open(), open()
	for _, conn := range []io.ReadWriteCloser{first, second} {
		if _, err := io.WriteString(conn, "hello"); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(io.LimitReader(conn, 5)); err != nil || string(got) != "hello" {
			t.Errorf("the guest answers %q, %v", got, err)
		}
	}
	w.act(first.Close())
	w.reconcile(vmi) // the guest runs, so its connection stays
	if _, err := io.WriteString(second, "hello"); err != nil {
		t.Errorf("the connection of a guest that runs: %v", err)
	}
	w.act(w.hv.Machine().PowerOff(refOf(vmi)))
	w.reconcile(vmi)
	if _, err := io.Copy(io.Discard, second); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection of a guest that ended: %v", err)
	}
	_ = second.Close()
	if n := len(w.executor.forwards.byUID); n != 0 {
		t.Errorf("connections of %d guests are remembered", n)
	}
}

// A connection leads to an address that the host has given, whatever the guest calls its own.
func TestForwardedPortsLeadToTheGuestAlone(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	port := listen(t, w)
	w.network.address = ""
	info := fullAnswer
	info.Interfaces = []hypervisor.GuestInterface{{Name: "eth0", MAC: testMAC, Addresses: []string{"127.0.0.1/8"}}}
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &info))
	w.hear(vmi)
	ask := func(protocol string, port uint16) error {
		conn, err := w.executor.Guests().Stream(t.Context(), "ns", "a", guests.StreamRequest{Kind: guests.Forward, Protocol: protocol, Port: port})
		if err == nil {
			err = errors.Join(errors.New("a connection was opened"), conn.Close())
		}
		return err
	}
	if err := ask(guests.TCP, port); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "has no address") {
		t.Errorf("a guest that names an address of its host: %v", err)
	}
	w.network.address = "127.0.0.1"
	for _, c := range []struct {
		protocol string
		port     uint16
		code     fault.Code
		says     string
	}{
		{"sctp", port, fault.Invalid, "protocol"}, {guests.TCP, 0, fault.Invalid, "port"}, {guests.TCP, 1, fault.Unavailable, "ns/a"},
	} {
		if err := ask(c.protocol, c.port); !errors.Is(err, c.code) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %d: %v", c.protocol, c.port, err)
		}
	}
	for range maxForwards {
		if !w.executor.forwards.add(string(vmi.UID), &forwardedConn{}) {
			t.Fatal("a connection was refused too early")
		}
	}
	if err := ask(guests.TCP, port); !errors.Is(err, fault.TooMany) {
		t.Errorf("one connection too many: %v", err)
	}
	w.act(w.hv.Machine().Pause(refOf(vmi), hypervisor.ReasonUser))
	if err := ask(guests.TCP, port); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "paused") {
		t.Errorf("a guest that is paused: %v", err)
	}
}

// A connection leaves through the device behind which the guests are, whatever the host's routes say.
func TestForwardedPortsLeaveThroughTheGuestsDevice(t *testing.T) {
	w := newWorld(t)
	w.config.GuestDevice = "vm-none"
	w.restart()
	w.running("a")
	port := listen(t, w)
	for _, protocol := range []string{guests.TCP, guests.UDP} {
		conn, err := w.executor.Guests().Stream(t.Context(), "ns", "a", guests.StreamRequest{Kind: guests.Forward, Protocol: protocol, Port: port})
		if err == nil {
			conn.Close()
		}
		if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "vm-none") {
			t.Errorf("%s, and the device is away: %v", protocol, err)
		}
	}
}

// A display has one viewer: who comes later takes it, unless he asks to leave it.
func TestADisplayHasOneViewer(t *testing.T) {
	w := newWorld(t)
	w.running("a")
	open := func(preserve bool) (io.ReadWriteCloser, error) {
		return w.executor.Guests().Stream(t.Context(), "ns", "a", guests.StreamRequest{Kind: guests.VNC, Preserve: preserve})
	}
	first, err := open(true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(true); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "Active VNC connection") {
		t.Errorf("a polite viewer of a display in use: %v", err)
	}
	w.hv.Machine().Fail("VNC", hypervisor.ErrNoDevice)
	if _, err := open(false); err == nil {
		t.Error("a display that fails was opened")
	}
	greeting := make([]byte, 3)
	if _, err := io.ReadFull(first, greeting); err != nil || string(greeting) != "RFB" {
		t.Errorf("the first viewer reads %q, %v", greeting, err)
	}
	second, err := open(false)
	if err != nil {
		t.Fatal(err)
	}
	if left := rest(t, first); strings.Contains(left, "virtmesh") {
		t.Errorf("the first viewer reads %q at the end", left)
	}
	w.act(errors.Join(first.Close(), second.Close()))
	third, err := open(true)
	if err != nil {
		t.Fatalf("a display that nobody looks at: %v", err)
	}
	w.act(third.Close())
}
