package port_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port"
)

// TestStrangersProtocolNames offers, without a certificate, names that mean something
// inside the port. Each handshake is refused, and the port lives on.
func TestStrangersProtocolNames(t *testing.T) {
	m := identitytest.NewMesh(t)
	p := newPort(t, m.First)
	echo(t, listen(t, p, port.ProtoJoin))
	for _, name := range []string{"virtmesh-refused", "virtmesh-", "virtmesh-unknown", "api", "unknown", strings.Repeat("x", 255)} {
		conn, err := tls.Dial("tcp", p.Addr().String(), &tls.Config{RootCAs: m.First.Roots(), NextProtos: []string{name}})
		if err == nil {
			conn.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "no application protocol") {
			t.Errorf("a stranger that offers %q: %v", name, err)
		}
	}
	conn, err := tls.Dial("tcp", p.Addr().String(), &tls.Config{RootCAs: m.First.Roots(), NextProtos: []string{port.ProtoJoin}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := ping(t, conn); err != nil {
		t.Error(err)
	}
}

// spoiltCredentials panic for callers that name one server.
type spoiltCredentials struct{ *identity.Identity }

func (c spoiltCredentials) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if hello.ServerName == "spoilt" {
		panic("spoilt")
	}
	return c.Identity.GetCertificate(hello)
}

// TestPanicEndsOneConnection lets a handshake, an API request and a call between hosts
// panic: each caller is cut off, the panic is counted, and the next caller is served.
func TestPanicEndsOneConnection(t *testing.T) {
	m := identitytest.NewMesh(t)
	reg := prometheus.NewRegistry()
	p := newPort(t, m.First, func(c *port.Config) { c.Credentials, c.Registerer = spoiltCredentials{m.First}, reg })
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/spoilt":
			panic("spoilt")
		case "/aborted":
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, "well")
	})
	api, err := p.API()
	if err != nil {
		t.Fatal(err)
	}
	users := new(port.HTTPServers)
	users.Add(api, handler)
	t.Cleanup(users.Close)
	go func() { _ = users.Run(t.Context(), func(ctx context.Context) error { <-ctx.Done(); return nil }) }()
	rpc := port.ServeRPC(listen(t, p, port.ProtoRPC), handler, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = rpc.Shutdown(t.Context()) })

	addr := p.Addr().String()
	if conn, err := tls.Dial("tcp", addr, &tls.Config{ServerName: "spoilt", RootCAs: m.First.Roots()}); err == nil {
		conn.Close()
		t.Error("a handshake that panicked succeeded")
	}
	h2 := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: m.First.Roots()}, ForceAttemptHTTP2: true}}
	h1 := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: m.First.Roots()}}}
	between := rpcClient(newPort(t, m.Host(t, "host2", 0)), addr)
	for _, c := range []struct {
		name   string
		client *http.Client
		url    string
	}{{"API over HTTP/2", h2, "https://" + addr}, {"API over HTTP/1.1", h1, "https://" + addr}, {"call between hosts", between, "http://host1"}} {
		t.Cleanup(c.client.CloseIdleConnections)
		for _, path := range []string{"/spoilt", "/aborted"} {
			if resp, err := c.client.Get(c.url + path); err == nil {
				resp.Body.Close()
				t.Errorf("%s: %s was answered", c.name, path)
			}
		}
		resp, err := c.client.Get(c.url + "/")
		if err != nil {
			t.Fatalf("%s after a panic: %v", c.name, err)
		}
		resp.Body.Close()
	}
	got := values(t, reg)
	for name, want := range map[string]float64{"unknown": 0, "api": 3, "virtmesh-rpc": 1} {
		if n := got["virtmesh_meshport_panics_total "+name]; n != want {
			t.Errorf("%v panics counted for %s, want %v", n, name, want)
		}
	}
}
