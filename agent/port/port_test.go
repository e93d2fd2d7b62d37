package port_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port"
)

// newPort opens a port on the loopback for a host.
func newPort(t *testing.T, id *identity.Identity, change ...func(*port.Config)) *port.Port {
	t.Helper()
	cfg := port.DefaultConfig()
	cfg.Bind, cfg.Credentials = "127.0.0.1:0", id
	for _, c := range change {
		c(&cfg)
	}
	p, err := port.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func listen(t *testing.T, p *port.Port, proto string) net.Listener {
	t.Helper()
	l, err := p.Listen(proto)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// echo answers every connection with its bytes until the listener is closed.
func echo(t *testing.T, l net.Listener) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
}

// ping sends a line over c and reads it back.
func ping(t *testing.T, c net.Conn) error {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "ping\n"); err != nil {
		return err
	}
	got, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && got != "ping\n" {
		err = fmt.Errorf("read %q", got)
	}
	return err
}

func TestDemux(t *testing.T) {
	m := identitytest.NewMesh(t)
	server, client := newPort(t, m.First), newPort(t, m.Host(t, "host2", 0))
	protos := []string{port.ProtoRaft, port.ProtoStore, "virtmesh-migration"}
	listeners := make(map[string]net.Listener)
	for _, proto := range protos {
		listeners[proto] = listen(t, server, proto)
	}
	for _, proto := range protos {
		out, err := client.Dial(t.Context(), proto, server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		in, err := listeners[proto].Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := port.PeerOf(in); got != "host2" {
			t.Errorf("%s: accepted from %q", proto, got)
		}
		if out.Peer() != "host1" {
			t.Errorf("%s: dialled %q", proto, out.Peer())
		}
		if v := out.ConnectionState().Version; v != tls.VersionTLS13 {
			t.Errorf("%s: TLS %x", proto, v)
		}
		go func() { _, _ = io.Copy(in, in) }()
		if err := ping(t, out); err != nil {
			t.Errorf("%s: %v", proto, err)
		}
		out.Close()
		in.Close()
	}
}

func TestListen(t *testing.T) {
	m := identitytest.NewMesh(t)
	p := newPort(t, m.First)
	if _, err := p.Listen("h2"); !errors.Is(err, port.ErrProtocol) {
		t.Errorf("h2 as a mesh protocol: %v", err)
	}
	l := listen(t, p, port.ProtoRaft)
	if _, err := p.Listen(port.ProtoRaft); !errors.Is(err, port.ErrProtocol) {
		t.Errorf("second listener: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
	listen(t, p, port.ProtoRaft)
}

func TestProtocolWithoutListener(t *testing.T) {
	m := identitytest.NewMesh(t)
	p := newPort(t, m.First)
	_, err := p.Dial(t.Context(), port.ProtoRaft, p.Addr().String())
	if err == nil || !strings.Contains(err.Error(), "no application protocol") {
		t.Errorf("dial: %v", err)
	}
	if _, err := p.Dial(t.Context(), "h2", p.Addr().String()); !errors.Is(err, port.ErrProtocol) {
		t.Errorf("dial the API as a mesh protocol: %v", err)
	}
	for _, protos := range [][]string{nil, {"h2"}} {
		conn, err := tls.Dial("tcp", p.Addr().String(), &tls.Config{RootCAs: m.First.Roots(), NextProtos: protos})
		if err == nil {
			conn.Close()
			t.Errorf("the API answers %v without a listener", protos)
		}
	}
}

// TestAPI serves net/http on the API listener: HTTP/2 and HTTP/1.1, TLS 1.2 and 1.3, with
// and without a client certificate.
func TestAPI(t *testing.T) {
	m := identitytest.NewMesh(t)
	p := newPort(t, m.First)
	l, err := p.API()
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user := "anonymous"
		if len(r.TLS.VerifiedChains) > 0 {
			user = r.TLS.VerifiedChains[0][0].Subject.CommonName
		}
		fmt.Fprintf(w, "%s %s", r.Proto, user)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		_ = server.Close()
		wg.Wait()
	})
	admin := *m.Admin(t, time.Hour)
	foreign := identitytest.NewMesh(t).First.Certificate()
	for _, c := range []struct {
		name   string
		cfg    *tls.Config
		h2     bool
		want   string
		refuse bool
	}{
		{name: "h2", cfg: &tls.Config{}, h2: true, want: "HTTP/2.0 anonymous"},
		{name: "h2 with certificate", cfg: &tls.Config{Certificates: []tls.Certificate{admin}}, h2: true, want: "HTTP/2.0 virtmesh:admin"},
		{name: "http/1.1", cfg: &tls.Config{NextProtos: []string{"http/1.1"}}, want: "HTTP/1.1 anonymous"},
		{name: "no ALPN, TLS 1.2", cfg: &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{admin}}, want: "HTTP/1.1 virtmesh:admin"},
		{name: "TLS 1.1", cfg: &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, refuse: true},
		{name: "foreign certificate", cfg: &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return foreign, nil }}, refuse: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.RootCAs = m.First.Roots()
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: c.cfg, ForceAttemptHTTP2: c.h2}}
			defer client.CloseIdleConnections()
			resp, err := client.Get("https://" + p.Addr().String())
			if (err != nil) != c.refuse {
				t.Fatalf("get: %v", err)
			}
			if err != nil {
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || string(body) != c.want {
				t.Errorf("answer %q, %v; want %q", body, err, c.want)
			}
		})
	}
}

func TestJoinNeedsNoCertificate(t *testing.T) {
	m := identitytest.NewMesh(t)
	p := newPort(t, m.First)
	echo(t, listen(t, p, port.ProtoJoin))
	conn, err := tls.Dial("tcp", p.Addr().String(), &tls.Config{RootCAs: m.First.Roots(), NextProtos: []string{port.ProtoJoin}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := ping(t, conn); err != nil {
		t.Error(err)
	}
	if n := len(conn.ConnectionState().PeerCertificates); n != 2 {
		t.Errorf("the server shows %d certificates, a joining host needs leaf and CA", n)
	}
}

func TestAdvertise(t *testing.T) {
	m := identitytest.NewMesh(t)
	p := newPort(t, m.First, func(c *port.Config) { c.Advertise = "host1.example.org:7443" })
	l := listen(t, p, port.ProtoRaft)
	for _, a := range []net.Addr{p.Addr(), l.Addr()} {
		if a.String() != "host1.example.org:7443" || a.Network() != "tcp" {
			t.Errorf("address %s %s", a.Network(), a)
		}
	}
}

func TestConfig(t *testing.T) {
	m := identitytest.NewMesh(t)
	good := port.DefaultConfig()
	good.Credentials = m.First
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(*port.Config){
		"Bind":                func(c *port.Config) { c.Bind = "" },
		"Credentials":         func(c *port.Config) { c.Credentials = nil },
		"HandshakeTimeout":    func(c *port.Config) { c.HandshakeTimeout = 0 },
		"limit of Handshakes": func(c *port.Config) { c.Handshakes.Members = 0 },
		"HandshakeBytes":      func(c *port.Config) { c.HandshakeBytes = 0 },
		"StrangerHandshakes":  func(c *port.Config) { c.StrangerHandshakes = 0 },
		"WithoutCertificate":  func(c *port.Config) { c.WithoutCertificate.StrangersPerSource = 0 },
		"Backlog":             func(c *port.Config) { c.Backlog = 0 },
		"Logger":              func(c *port.Config) { c.Logger = nil },
	} {
		bad := good
		spoil(&bad)
		if _, err := port.New(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	busy := newPort(t, m.First)
	good.Bind = busy.Addr().String()
	if _, err := port.New(good); err == nil {
		t.Error("two ports on one address")
	}
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); {
		if time.Now().After(end) {
			t.Fatal("it did not happen in 20 s")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// values returns counters and gauges by name and label values.
func values(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

// rpcClient calls the RPC server at addr as the host that port p is of; the host of a URL
// is the one that must answer.
func rpcClient(p *port.Port, addr string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, hostPort string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(hostPort)
			if err != nil {
				return nil, err
			}
			return p.DialHost(ctx, port.ProtoRPC, host, addr)
		},
	}}
}
