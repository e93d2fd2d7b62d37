package port_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port"
)

// TestOpenConnectionsAreCutOff: a watch over HTTP/2, a console that has taken its connection
// over, and the streams of a host, accepted and dialled, end when their certificates do. Those
// of others go on.
func TestOpenConnectionsAreCutOff(t *testing.T) {
	m := identitytest.NewMesh(t)
	p := newPort(t, m.First)
	api, err := p.API()
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(serveForever), Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	go server.Serve(api)
	t.Cleanup(func() { server.Close() })
	alice, bob, gone := m.Admin(t, time.Hour), m.Admin(t, time.Hour), m.Host(t, "host2", 0)
	other := newPort(t, gone)
	echo(t, listen(t, p, port.ProtoRaft))
	echo(t, listen(t, other, port.ProtoRaft))

	ends := map[string]io.Reader{
		"watch":      openWatch(t, m, p, alice),
		"console":    openConsole(t, m, p, alice),
		"accepted":   dialRaft(t, other, p),
		"dialled":    dialRaft(t, p, other),
		"of another": openWatch(t, m, p, bob),
	}
	ended := func(cert *x509.Certificate) error {
		if cert.Equal(alice.Leaf) || cert.Equal(gone.Leaf()) {
			return errors.New("it has ended")
		}
		return nil
	}
	if cut := p.CutOff(ended); cut != 4 {
		t.Errorf("%d connections were cut off, want 4", cut)
	}
	for name, from := range ends {
		if name == "of another" {
			continue
		}
		if _, err := io.Copy(io.Discard, from); err == nil && name == "watch" {
			t.Errorf("%s ended as if it were whole", name)
		}
	}
	if cut := p.CutOff(ended); cut != 0 {
		t.Errorf("%d connections are left to cut off", cut)
	}
	if _, err := io.ReadFull(ends["of another"], make([]byte, 2)); err != nil {
		t.Errorf("the connection of another: %v", err)
	}
}

// serveForever answers with a line, and then a byte now and then; over HTTP/1.1 it takes the
// connection over first.
func serveForever(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n\n")
			_, _ = io.Copy(io.Discard, conn)
		}
		return
	}
	for r.Context().Err() == nil {
		if _, err := io.WriteString(w, "\n"); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func clientConfig(m *identitytest.Mesh, cert *tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: m.First.Roots(), ServerName: identity.ServerName, Certificates: []tls.Certificate{*cert}}
}

func openWatch(t *testing.T, m *identitytest.Mesh, p *port.Port, cert *tls.Certificate) io.Reader {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: clientConfig(m, cert), ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	answer, err := (&http.Client{Transport: transport}).Get("https://" + p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	if answer.ProtoMajor != 2 {
		t.Fatalf("the watch is over %s", answer.Proto)
	}
	readByte(t, answer.Body)
	return answer.Body
}

func openConsole(t *testing.T, m *identitytest.Mesh, p *port.Port, cert *tls.Certificate) io.Reader {
	t.Helper()
	cfg := clientConfig(m, cert)
	cfg.NextProtos = []string{"http/1.1"}
	conn, err := tls.Dial("tcp", p.Addr().String(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: virtmesh\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	readByte(t, conn)
	return conn
}

func dialRaft(t *testing.T, from, to *port.Port) net.Conn {
	t.Helper()
	conn, err := from.Dial(t.Context(), port.ProtoRaft, to.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := ping(t, conn); err != nil {
		t.Fatal(err)
	}
	return conn
}

func readByte(t *testing.T, from io.Reader) {
	t.Helper()
	if _, err := io.ReadFull(from, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}
