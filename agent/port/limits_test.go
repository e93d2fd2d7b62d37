package port_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port"
)

// TestSlowCallers fills all places for handshakes with callers that say nothing, three
// times over; the callers are cut off in time, and a host gets through.
func TestSlowCallers(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	const places = 4
	reg := prometheus.NewRegistry()
	p := newPort(t, m.First, func(c *port.Config) {
		c.MaxHandshakes, c.MaxHandshakesPerSource, c.HandshakeTimeout = places, places, 2*time.Second
		c.Registerer = reg
	})
	echo(t, listen(t, p, port.ProtoRaft))
	var slow []net.Conn
	for range 3 * places { // two thirds wait in the kernel
		c, err := net.Dial("tcp", p.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		slow = append(slow, c)
	}
	client := newPort(t, m.Host(t, "host2", 0), func(c *port.Config) { c.HandshakeTimeout = 20 * time.Second })
	c, err := client.Dial(t.Context(), port.ProtoRaft, p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := ping(t, c); err != nil {
		t.Error(err)
	}
	for _, c := range slow {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			t.Fatalf("a silent caller is still connected: %v", err)
		}
	}
	waitFor(t, func() bool {
		return values(t, reg)["virtmesh_meshport_handshakes_total unknown timeout server"] == 3*places
	})
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestOneSourceCannotTakeAllPlaces(t *testing.T) {
	m := identitytest.NewMesh(t)
	p := newPort(t, m.First, func(c *port.Config) {
		c.MaxHandshakes, c.MaxHandshakesPerSource = 8, 2
	})
	echo(t, listen(t, p, port.ProtoRaft))
	var open []net.Conn
	for range 6 {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}).Dial("tcp", p.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	var refused int
	for _, c := range open[2:] { // accepted in order, so these are over the limit
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err != nil && !isTimeout(err) {
			refused++
		}
	}
	if refused != 4 {
		t.Errorf("%d of 4 callers over the limit were refused", refused)
	}
	client := newPort(t, m.Host(t, "host2", 0))
	c, err := client.Dial(t.Context(), port.ProtoRaft, p.Addr().String())
	if err != nil {
		t.Fatalf("another source: %v", err)
	}
	c.Close()
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
// a source, to the API and to join together; those of hosts are not, and a closed one
// makes room.
func TestOneSourceCannotHoldConnections(t *testing.T) {
	m := identitytest.NewMesh(t)
	p := newPort(t, m.First, func(c *port.Config) { c.MaxStrangersPerSource = 2 })
	api(t, p)
	echo(t, listen(t, p, port.ProtoJoin))
	echo(t, listen(t, p, port.ProtoRaft))
	stranger := func(proto string) (*tls.Conn, error) {
		c, err := tls.Dial("tcp", p.Addr().String(), &tls.Config{RootCAs: m.First.Roots(), NextProtos: []string{proto}})
		if err != nil {
			return nil, err
		}
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); err != nil && !isTimeout(err) {
			return nil, errors.Join(err, c.Close())
		}
		return c, nil
	}
	var open []*tls.Conn
	for _, proto := range []string{"http/1.1", port.ProtoJoin} {
		c, err := stranger(proto)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	for _, proto := range []string{"http/1.1", port.ProtoJoin} {
		if c, err := stranger(proto); err == nil {
			t.Errorf("%s: a third connection stays open", proto)
			c.Close()
		}
	}
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
	open[0].Close()
	waitFor(t, func() bool {
		c, err := stranger("http/1.1")
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}
