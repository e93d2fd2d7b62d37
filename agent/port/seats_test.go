package port

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/identity"
)

// shakenListener completes the handshake of each connection, as the mesh port does.
type shakenListener struct {
	net.Listener
	config *tls.Config
}

func (l shakenListener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn := tls.Server(raw, l.config)
	return conn, conn.Handshake()
}

func certificateFor(t *testing.T, subject pkix.Name) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: subject, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// A user with all the connections that he can have is told so on the next one. Others, and
// administrators, are not kept out.
func TestConnectionsOfAUserAreBounded(t *testing.T) {
	t.Parallel()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var servers HTTPServers
	servers.AddClients(shakenListener{tcp, &tls.Config{Certificates: []tls.Certificate{certificateFor(t, pkix.Name{})}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2", "http/1.1"}}},
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "well") }))
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() {
		stopped <- servers.Run(ctx, func(ctx context.Context) error { <-ctx.Done(); return nil })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	var held []net.Conn
	for range seatsPerUser {
		conn, _ := net.Pipe()
		held = append(held, conn)
		if !servers.users.take(conn, "alice") {
			t.Fatalf("no seat for connection %d", len(held))
		}
	}
	ask := func(cert tls.Certificate, protocols ...string) (int, string) {
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, NextProtos: protocols}, ForceAttemptHTTP2: len(protocols) == 0}
		defer transport.CloseIdleConnections()
		response, err := (&http.Client{Transport: transport}).Get("https://" + tcp.Addr().String())
		if err != nil {
			return 0, err.Error()
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Error(err)
		}
		return response.StatusCode, string(body)
	}
	alice := certificateFor(t, pkix.Name{CommonName: "alice"})
	for _, protocols := range [][]string{nil, {"http/1.1"}} {
		if code, body := ask(alice, protocols...); code != http.StatusTooManyRequests || !strings.Contains(body, "too many connections") {
			t.Errorf("%s: one more connection of alice: %d %s", protocols, code, body)
		}
	}
	for name, cert := range map[string]tls.Certificate{
		"bob": certificateFor(t, pkix.Name{CommonName: "bob"}), "an administrator": certificateFor(t, pkix.Name{CommonName: "alice", Organization: []string{identity.AdminOrganization}}),
	} {
		if code, body := ask(cert); code != http.StatusOK {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
	servers.users.follow(held[0], http.StateClosed)
	servers.users.follow(held[0], http.StateClosed)
	if code, body := ask(alice); code != http.StatusOK {
		t.Errorf("after one has ended: %d %s", code, body)
	}
}

// A program whose service account has all the connections that it can have stays a stranger, and is
// told why.
func TestConnectionsOfAnAccountAreBounded(t *testing.T) {
	t.Parallel()
	var users seats
	for range seatsPerUser {
		conn, _ := net.Pipe()
		users.take(conn, "ci")
	}
	near, far := net.Pipe()
	l := &oneConn{conns: make(chan net.Conn, 1), done: make(chan struct{})}
	l.conns <- far
	server := newHTTPServer(welcomeKnown(func(*http.Request) (string, bool) { return "ci", true }, &users,
		http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was served") }), http.NotFoundHandler()))
	server.ConnContext = withStranger
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(l) }()
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil }}}
	response, err := client.Get("http://host1/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	response.Body.Close()
	if response.StatusCode != http.StatusTooManyRequests || !response.Close || !strings.Contains(string(body), "too many connections") {
		t.Errorf("%s, close %v: %s", response.Status, response.Close, body)
	}
	_ = server.Close()
	<-stopped
}

// All users together have a bounded number of connections.
func TestConnectionsOfAllUsersAreBounded(t *testing.T) {
	t.Parallel()
	var users seats
	for i := range seatsOfAll {
		conn, _ := net.Pipe()
		if !users.take(conn, string(rune('a'+i/seatsPerUser))) {
			t.Fatalf("no seat for connection %d", i)
		}
	}
	if conn, _ := net.Pipe(); users.take(conn, "z") {
		t.Error("there is a seat for one more")
	}
}
