package port

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"virtmesh/agent/identity/identitytest"
	"virtmesh/gossip/places"
)

// calledFrom is a connection from an address.
type calledFrom struct {
	net.Conn
	ip net.IP
}

func (c calledFrom) RemoteAddr() net.Addr { return &net.TCPAddr{IP: c.ip, Port: 1} }

// unlistened returns a port without a socket, which lets fake time pass. Callers are
// strangers, except those from 10.0.0.0/8.
func unlistened(t *testing.T, change func(*Config)) *Port {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Credentials = identitytest.NewMesh(t).First
	cfg.Known = func(addr netip.Addr) bool { return addr.Is4() && addr.As4()[0] == 10 }
	change(&cfg)
	p, err := newPort(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// call makes a port accept a connection from an address, and returns the caller's end.
func call(ctx context.Context, p *Port, from string) net.Conn {
	near, far := net.Pipe()
	p.admit(ctx, calledFrom{far, net.ParseIP(from)})
	return near
}

func joinHandshake(conn net.Conn) error {
	return tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{ProtoJoin}}).Handshake()
}

// A caller that sends and sends before its handshake ends is cut off.
func TestHandshakeBytesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := unlistened(t, func(*Config) {})
		conn := call(t.Context(), p, "192.0.2.1")
		defer conn.Close()
		hello := append([]byte{1, 0, 0xff, 0xff}, make([]byte, 60<<10)...) // of 64 KiB, which TLS allows
		sent := 0
		var err error
		for len(hello) > 0 && err == nil {
			part := hello[:min(len(hello), 1<<10)]
			hello = hello[len(part):]
			var n int
			n, err = conn.Write(append([]byte{22, 3, 1, byte(len(part) >> 8), byte(len(part))}, part...))
			sent += n
		}
		if most := DefaultConfig().HandshakeBytes; err == nil || sent > most {
			t.Errorf("%d bytes were taken, %v; want %d at most", sent, err, most)
		}
		p.done.Wait()
	})
}

// Strangers that begin one handshake after the other get their time one after the other;
// hosts wait for none of them, and those that gave way keep nobody waiting.
func TestHandshakesOfStrangersArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := unlistened(t, func(c *Config) {
			c.StrangerHandshakes, c.Handshakes.Strangers, c.Handshakes.StrangersPerSource = 2, 6, 3
		})
		l, err := p.listen(ProtoJoin)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		start := time.Now()
		var ends sync.WaitGroup
		shake := func(from string) (took time.Duration, err error) {
			conn := call(t.Context(), p, from)
			t.Cleanup(func() { conn.Close() })
			err = joinHandshake(conn)
			return time.Since(start), err
		}
		for range 20 { // two get through at once, three wait, the others give way
			ends.Go(func() { _, _ = shake("192.0.2.66") })
			synctest.Wait()
		}
		ends.Go(func() {
			if took, err := shake("192.0.2.1"); err != nil || took > 2*time.Second+2*turnPoll {
				t.Errorf("a quiet stranger got through after %v, %v; want 2s: with those three", took, err)
			}
		})
		synctest.Wait()
		if took, err := shake("10.0.0.1"); err != nil || took > 0 {
			t.Errorf("a host got through after %v, %v", took, err)
		}
		ends.Wait()
	})
}

// A client without a certificate that asks and asks gets its answers one after the other.
func TestRequestsOfStrangersArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var servers HTTPServers
		l := &oneConn{conns: make(chan net.Conn, 1), done: make(chan struct{})}
		servers.AddStrangers(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "well") }), nil)
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error)
		go func() {
			stopped <- servers.Run(ctx, func(ctx context.Context) error { <-ctx.Done(); return nil })
		}()
		near, far := net.Pipe()
		l.conns <- calledFrom{far, net.IPv4(192, 0, 2, 1)}
		client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil }}}
		start := time.Now()
		for range strangerBurst + 4*strangerRate {
			response, err := client.Get("http://host1/version")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, response.Body); err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
		}
		if took := time.Since(start); took < 4*time.Second || took > 5*time.Second {
			t.Errorf("%d requests took %v, want 4 s", strangerBurst+4*strangerRate, took)
		}
		cancel()
		if err := <-stopped; err != nil && !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// A stranger is told that few streams and few bytes are taken that nobody has read: a server
// keeps what it has allowed.
func TestStrangersHaveSmallWindows(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert := *identitytest.NewMesh(t).First.Certificate()
	var servers HTTPServers
	servers.AddStrangers(tcp, http.NotFoundHandler(), nil)
	server := servers.listeners[0].server
	stopped := make(chan error)
	go func() {
		stopped <- server.Serve(tls.NewListener(tcp, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}))
	}()
	conn, err := tls.Dial("tcp", tcp.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	framer := http2.NewFramer(conn, conn)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(framer.WriteSettings(), framer.WritePing(false, [8]byte{1})); err != nil {
		t.Fatal(err)
	}
	settings, window := map[http2.SettingID]uint32{}, uint32(65535)
	for answered := false; !answered; {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			_ = f.ForeachSetting(func(s http2.Setting) error { settings[s.ID] = s.Val; return nil })
		case *http2.WindowUpdateFrame:
			window += f.Increment
		case *http2.PingFrame:
			answered = true
		}
	}
	for setting, most := range map[http2.SettingID]uint32{
		http2.SettingMaxConcurrentStreams: strangerStreams, http2.SettingInitialWindowSize: strangerBody,
		http2.SettingMaxFrameSize: strangerBody, http2.SettingMaxHeaderListSize: strangerHeader + 4096,
	} {
		if got := settings[setting]; got == 0 || got > most {
			t.Errorf("%v: %d, want %d at most", setting, got, most)
		}
	}
	if window > strangerStreams*strangerBody {
		t.Errorf("a connection may send %d bytes", window)
	}
	_ = server.Close()
	if err := <-stopped; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// Who opens connection after connection to the metrics takes nobody else's.
func TestConnectionsToMetricsAreBounded(t *testing.T) {
	inner := &oneConn{conns: make(chan net.Conn, 1), done: make(chan struct{})}
	l := newBoundedListener(inner, places.Limits{Members: 1, MembersPerSource: 1, Strangers: 3, StrangersPerSource: 3})
	accept := func(from net.IP) (client, server net.Conn) {
		near, far := net.Pipe()
		inner.conns <- calledFrom{far, from}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return near, conn
	}
	scraper, _ := accept(net.IPv4(192, 0, 2, 1))
	var crowd []net.Conn
	for range 5 {
		near, _ := accept(net.IPv4(192, 0, 2, 2))
		crowd = append(crowd, near)
	}
	open := 0
	for _, c := range append(crowd, scraper) {
		_ = c.SetReadDeadline(time.Now())
		if _, err := c.Read(make([]byte, 1)); err == nil || !errors.Is(err, io.EOF) {
			open++
			if c != scraper && open > 2 {
				t.Error("the crowd has more than two connections")
			}
		} else if c == scraper {
			t.Error("the scraper lost its connection")
		}
	}
	if open != 3 {
		t.Errorf("%d connections are open, want 3", open)
	}
}
