package membership

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/level"
	"virtmesh/agent/port"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// TestRevokedPeopleAndRemovedHostsAreCutOff: a revocation, or the removal of a host, ends
// connections that are open then, without a further request.
func TestRevokedPeopleAndRemovedHostsAreCutOff(t *testing.T) {
	t.Parallel()
	mesh := identitytest.NewMesh(t)
	store := raftstoretest.New(t)
	host2 := mesh.Host(t, "host2", 0)
	forged := forgedCertificate(t, mesh, host2)
	copyMesh(t, mesh.Store, store, host2)
	m := newMember(DefaultConfig(), Options{Logger: slog.New(slog.DiscardHandler)})
	m.store, m.records = store, store
	m.admission.open(store, &groupOf{level: level.Apart, hears: true}, nil, nil)
	cfg := port.DefaultConfig()
	cfg.Bind, cfg.Credentials, cfg.Admit = "127.0.0.1:0", mesh.First, m.admission.Admit
	opened, err := port.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.port = opened
	t.Cleanup(func() { opened.Close() })
	for _, listen := range []func() (net.Listener, error){opened.API, func() (net.Listener, error) { return opened.Listen(port.ProtoStore) }} {
		l, err := listen()
		if err != nil {
			t.Fatal(err)
		}
		go acceptAndHold(l)
	}
	ctx, stop := context.WithCancel(t.Context())
	cutting := make(chan error)
	go func() { cutting <- m.CutOffEnded(ctx) }()

	alice, bob := issueTo(t, store, "alice"), issueTo(t, store, "bob")
	aliceAt := dialAs(t, mesh, opened, alice, "h2")
	bobAt := dialAs(t, mesh, opened, bob, "h2")
	hostAt := dialAs(t, mesh, opened, host2.Certificate(), port.ProtoStore)
	forgedAt := dialAs(t, mesh, opened, forged, port.ProtoStore)

	if _, err := identity.NewClients(store).Revoke(t.Context(), "alice", "root"); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, "alice", aliceAt)
	if err := identity.NewHosts(store).Update(t.Context(), host2.Node(), func(r *identity.HostRecord) {
		r.KeyPin, r.KeyKept = host2.KeyPin().String(), true
	}); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, "the forged certificate", forgedAt)
	mustBeRefused(t, mesh, opened, forged)
	if err := m.admission.Judge(t.Context(), forged.Leaf); !errors.Is(err, identity.ErrOtherKey) {
		t.Errorf("a request with the forged certificate: %v", err)
	}
	if _, err := hostAt.Write([]byte("x")); err != nil {
		t.Errorf("the host itself: %v", err)
	}
	_ = dialAs(t, mesh, opened, host2.Certificate(), port.ProtoStore)
	if err := identity.NewHosts(store).Expel(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, "host2", hostAt)
	if _, err := bobAt.Write([]byte("x")); err != nil {
		t.Errorf("bob: %v", err)
	}
	stop()
	if err := <-cutting; err != nil {
		t.Error(err)
	}
}

// forgedCertificate returns a certificate for a host that it does not know of, made with the
// CA's key.
func forgedCertificate(t *testing.T, mesh *identitytest.Mesh, host *identity.Identity) *tls.Certificate {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := mesh.CA.IssueNode(&key.PublicKey, host.Node(), nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return keyPair(t, chain, key)
}

// mustBeRefused fails the test if a port of hosts takes a certificate.
func mustBeRefused(t *testing.T, mesh *identitytest.Mesh, p *port.Port, cert *tls.Certificate) {
	t.Helper()
	conn, err := tls.Dial("tcp", p.Addr().String(), &tls.Config{
		RootCAs: mesh.First.Roots(), ServerName: identity.ServerName, Certificates: []tls.Certificate{*cert}, NextProtos: []string{port.ProtoStore},
	})
	if err != nil {
		return
	}
	defer conn.Close()
	awaitEnd(t, "the refused certificate", conn)
}

func acceptAndHold(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = conn.Write([]byte("x"))
			_, _ = io.Copy(io.Discard, conn)
		}()
	}
}

// copyMesh copies the records of a mesh, and adds that of a host.
func copyMesh(t *testing.T, from *identitytest.Store, to identity.Store, host *identity.Identity) {
	t.Helper()
	res, err := from.List(t.Context(), raftstore.ListRequest{Prefix: "/mesh/"})
	if err != nil {
		t.Fatal(err)
	}
	record, err := json.Marshal(identity.HostRecord{Name: host.Host(), ID: host.Node().ID, MeshAddress: "192.0.2.2:7443", GossipAddress: "192.0.2.2:7946"})
	if err != nil {
		t.Fatal(err)
	}
	ops := []raftstore.Op{{Key: identity.HostKey(host.Host()), Value: record}}
	for _, r := range res.Records {
		ops = append(ops, raftstore.Op{Key: r.Key, Value: r.Value})
	}
	if _, err := to.Commit(t.Context(), raftstore.Txn{Ops: ops}); err != nil {
		t.Fatal(err)
	}
}

func issueTo(t *testing.T, store identity.Store, user string) *tls.Certificate {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, _, _, err := identity.NewSigner(store, 0).IssueClient(t.Context(), identity.ClientRequest{Key: &key.PublicKey, User: user, Administrator: true, Host: "host1"})
	if err != nil {
		t.Fatal(err)
	}
	return keyPair(t, chain, key)
}

func keyPair(t *testing.T, chain []byte, key *ecdsa.PrivateKey) *tls.Certificate {
	t.Helper()
	certs, err := identity.ParseCertificates(chain)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{certs[0].Raw}, Leaf: certs[0], PrivateKey: key}
}

// dialAs opens a connection, and returns it when the port has taken it.
func dialAs(t *testing.T, mesh *identitytest.Mesh, p *port.Port, cert *tls.Certificate, proto string) net.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", p.Addr().String(), &tls.Config{
		RootCAs: mesh.First.Roots(), ServerName: identity.ServerName, Certificates: []tls.Certificate{*cert}, NextProtos: []string{proto},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func awaitEnd(t *testing.T, who string, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Read(make([]byte, 1))
	var timeout net.Error
	if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("the connection of %s goes on: %v", who, err)
	}
}
