package port_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port"
)

// strange makes callers from everywhere but hostAddress strangers.
func strange(c *port.Config) {
	c.Known = func(addr netip.Addr) bool { return addr == hostAddress }
}

// hostAddress is the address from which tests dial that say nothing else.
var hostAddress = netip.MustParseAddr("127.0.0.1")

// callFrom opens a connection to a port from an address in 127.0.0.0/8.
func callFrom(t *testing.T, p *port.Port, from net.IP) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}).Dial("tcp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestSlowCallers fills all places for strangers' handshakes with callers that say nothing,
// many times over. A host gets through at once, another stranger does, and the callers are
// cut off.
func TestSlowCallers(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	const room, calls = 8, 40
	reg := prometheus.NewRegistry()
	p := newPort(t, m.First, strange, func(c *port.Config) {
		c.Handshakes.Strangers, c.Handshakes.StrangersPerSource = room, room
		c.HandshakeTimeout, c.Registerer = 4*time.Second, reg
	})
	echo(t, listen(t, p, port.ProtoRaft))
	echo(t, listen(t, p, port.ProtoJoin))
	var slow []net.Conn
	for i := range calls {
		slow = append(slow, callFrom(t, p, net.IPv4(127, 0, 1, byte(i))))
	}
	start := time.Now()
	client := newPort(t, m.Host(t, "host2", 0), func(c *port.Config) { c.HandshakeTimeout = 20 * time.Second })
	c, err := client.Dial(t.Context(), port.ProtoRaft, p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := ping(t, c); err != nil {
		t.Error(err)
	}
	newcomer := tls.Client(callFrom(t, p, net.IPv4(127, 0, 2, 1)), &tls.Config{RootCAs: m.First.Roots(), ServerName: "virtmesh", NextProtos: []string{port.ProtoJoin}})
	if err := newcomer.Handshake(); err != nil {
		t.Errorf("another stranger: %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("both got through after %v, when the others had been cut off", took)
	}
	for _, c := range slow {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, c); isTimeout(err) {
			t.Fatalf("a silent caller is still connected: %v", err)
		}
	}
	waitFor(t, func() bool {
		got := values(t, reg)
		return got["virtmesh_meshport_handshakes_total unknown timeout server"] == room-1 && got["virtmesh_meshport_handshakes_total unknown refused server"] == calls-room+1
	})
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// TestOneSourceCannotTakeAllPlaces: one stranger makes room for its own connections, and a
// quiet one keeps its only one.
func TestOneSourceCannotTakeAllPlaces(t *testing.T) {
	m := identitytest.NewMesh(t)
	p := newPort(t, m.First, strange, func(c *port.Config) {
		c.Handshakes.Strangers, c.Handshakes.StrangersPerSource = 4, 3
	})
	quiet := callFrom(t, p, net.IPv4(127, 0, 0, 8))
	var open []net.Conn
	for range 10 {
		open = append(open, callFrom(t, p, net.IPv4(127, 0, 0, 9)))
	}
	for i, c := range append(open, quiet) {
		stays := i >= 7
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if stays {
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		}
		if _, err := c.Read(make([]byte, 1)); isTimeout(err) != stays {
			t.Errorf("connection %d: %v", i, err)
		}
	}
}

func TestCloseWaits(t *testing.T) {
	m := identitytest.NewMesh(t)
	reg := prometheus.NewRegistry()
	p := newPort(t, m.First, func(c *port.Config) { c.HandshakeTimeout, c.Registerer = time.Hour, reg })
	l := listen(t, p, port.ProtoRaft)
	silent, err := net.Dial("tcp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	client := newPort(t, m.Host(t, "host2", 0))
	queued, err := client.Dial(t.Context(), port.ProtoRaft, p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer queued.Close()
	done := make(chan error)
	go func() {
		_, err := l.Accept()
		for err == nil {
			_, err = l.Accept()
		}
		done <- err
	}()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
	if _, err := silent.Read(make([]byte, 1)); err == nil {
		t.Error("a silent caller survives Close")
	}
	if err := p.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := p.Listen(port.ProtoStore); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listen after Close: %v", err)
	}
	if len(values(t, reg)) != 0 {
		t.Error("metrics stay registered after Close")
	}
}

func TestNobodyAccepts(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	reg := prometheus.NewRegistry()
	p := newPort(t, m.First, func(c *port.Config) {
		c.Backlog, c.HandshakeTimeout, c.Registerer = 1, 2*time.Second, reg
	})
	listen(t, p, port.ProtoRaft)
	client := newPort(t, m.Host(t, "host2", 0))
	for range 2 {
		c, err := client.Dial(t.Context(), port.ProtoRaft, p.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	waitFor(t, func() bool { return values(t, reg)["virtmesh_meshport_dropped_total virtmesh-raft"] == 1 })
}

func TestConnectionGauge(t *testing.T) {
	m := identitytest.NewMesh(t)
	reg := prometheus.NewRegistry()
	p := newPort(t, m.First, func(c *port.Config) { c.Registerer = reg })
	l := listen(t, p, port.ProtoRaft)
	const name = "virtmesh_meshport_connections virtmesh-raft"
	out, err := p.Dial(t.Context(), port.ProtoRaft, p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if n := values(t, reg)[name]; n != 1 {
		t.Errorf("%v connections are open", n)
	}
	out.Close()
	in.Close()
	in.Close()
	if n := values(t, reg)[name]; n != 0 {
		t.Errorf("%v connections are open after both ends closed", n)
	}
}

// TestOneSourceCannotHoldConnections: connections without a certificate are bounded for
// a source, to the API and to join together; those of hosts are not.
func TestOneSourceCannotHoldConnections(t *testing.T) {
	m := identitytest.NewMesh(t)
	p := newPort(t, m.First, strange, func(c *port.Config) {
		c.WithoutCertificate.MembersPerSource, c.WithoutCertificate.StrangersPerSource = 9, 2
	})
	api(t, p)
	echo(t, listen(t, p, port.ProtoJoin))
	echo(t, listen(t, p, port.ProtoRaft))
	stranger := func(proto string) *tls.Conn {
		c := tls.Client(callFrom(t, p, net.IPv4(127, 0, 0, 9)), &tls.Config{RootCAs: m.First.Roots(), ServerName: "virtmesh", NextProtos: []string{proto}})
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	var open []*tls.Conn
	for _, proto := range []string{"http/1.1", port.ProtoJoin, "http/1.1", port.ProtoJoin} {
		open = append(open, stranger(proto))
	}
	waitFor(t, func() bool {
		stay := 0
		for _, c := range open {
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if _, err := c.Read(make([]byte, 1)); isTimeout(err) {
				stay++
			}
		}
		return stay == 2
	})
	if err := getAPI(p, m, m.Host(t, "host2", 0).Certificate()); err != nil {
		t.Errorf("with a certificate: %v", err)
	}
	c, err := p.Dial(t.Context(), port.ProtoRaft, p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := ping(t, c); err != nil {
		t.Errorf("a host: %v", err)
	}
}
