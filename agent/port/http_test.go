package port

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
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

// TestServersFinishAnswers: the request that makes a host leave its mesh stops the
// agent, and has to be answered all the same. What never ends does not hold it up.
func TestServersFinishAnswers(t *testing.T) {
	asked, stopping, forever := make(chan struct{}, 2), make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		if r.URL.Path == "/forever" {
			<-forever
			return
		}
		<-stopping
		io.WriteString(w, "left")
	}))
	defer server.Close()
	defer close(forever)
	answers := make(chan string, 1)
	go func() {
		body, err := get(server.URL + "/leave")
		if err != nil {
			body = err.Error()
		}
		answers <- body
	}()
	cut := make(chan error, 1)
	go func() {
		_, err := get(server.URL + "/forever")
		cut <- err
	}()
	<-asked
	<-asked
	server.Config.RegisterOnShutdown(func() { close(stopping) })
	s := &HTTPServers{listeners: []httpListener{{server: server.Config}}}
	s.shutdownAll()
	if got := <-answers; got != "left" {
		t.Errorf("the answer is %q", got)
	}
	if err := <-cut; err == nil {
		t.Error("a request without end was answered")
	}
}

// get returns the body of the answer.
func get(url string) (string, error) {
	response, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return string(data), err
}
