package port_test

import (
	"io"
	"log/slog"
	"net/http"
	"testing"

	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port"
)

// BenchmarkDial is one mutual TLS handshake, both ends in this process.
func BenchmarkDial(b *testing.B) {
	m := identitytest.NewMesh(b)
	p := benchPort(b, m)
	l, err := p.Listen(port.ProtoRaft)
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	for b.Loop() {
		c, err := p.Dial(b.Context(), port.ProtoRaft, p.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

// BenchmarkRPC is one call over a kept connection.
func BenchmarkRPC(b *testing.B) {
	m := identitytest.NewMesh(b)
	p := benchPort(b, m)
	l, err := p.Listen(port.ProtoRPC)
	if err != nil {
		b.Fatal(err)
	}
	rpc := port.ServeRPC(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), slog.New(slog.DiscardHandler))
	defer rpc.Shutdown(b.Context())
	client := rpcClient(p, p.Addr().String())
	defer client.CloseIdleConnections()
	for b.Loop() {
		resp, err := client.Get("http://host1/")
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

func benchPort(b *testing.B, m *identitytest.Mesh) *port.Port {
	b.Helper()
	cfg := port.DefaultConfig()
	cfg.Bind, cfg.Credentials = "127.0.0.1:0", m.First
	p, err := port.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	return p
}
