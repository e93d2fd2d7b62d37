package agent

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/identity/identitytest"
)

// oneConn is a listener with one connection.
type oneConn struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error   { close(l.done); return nil }
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{} }

// TestIdleConnectionsEnd: a stranger begins a connection as the protocol wants and then
// says nothing any more.
func TestIdleConnectionsEnd(t *testing.T) {
	for proto, hello := range map[string]string{
		"h2":       "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00", // and empty SETTINGS
		"http/1.1": "GET / HTTP/1.1\r\nHost: virtmesh\r\n\r\n",
	} {
		t.Run(proto, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				l := &oneConn{conns: make(chan net.Conn, 1), done: make(chan struct{})}
				cert := *identitytest.NewMesh(t).First.Certificate()
				served := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{proto}})
				client := tls.Client(near, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{proto}})
				go func() { l.conns <- served; _ = served.Handshake() }()
				if err := client.Handshake(); err != nil {
					t.Fatal(err)
				}
				server := newHTTPServer(http.NotFoundHandler())
				stopped := make(chan error)
				go func() { stopped <- server.Serve(l) }()
				start := time.Now()
				go func() { _, _ = io.WriteString(client, hello) }()
				_ = client.SetReadDeadline(start.Add(time.Hour))
				_, _ = io.Copy(io.Discard, client)
				if open := time.Since(start); open > 2*idleTimeout {
					t.Errorf("the connection was open for %s", open)
				}
				_ = client.Close()
				_ = server.Close()
				if err := <-stopped; !errors.Is(err, http.ErrServerClosed) {
					t.Error(err)
				}
			})
		})
	}
}
