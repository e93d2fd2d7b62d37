package port_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port"
)

// TestMeshProtocolsDemandHosts: no certificate, an administrator's, another mesh's and an
// expired one are refused.
func TestMeshProtocolsDemandHosts(t *testing.T) {
	m := identitytest.NewMesh(t)
	p := newPort(t, m.First)
	l := listen(t, p, port.ProtoRaft)
	echo(t, l)
	admin := m.Admin(t, time.Hour)
	stranger := identitytest.NewMesh(t).Host(t, "host2", 0)
	expired := m.Host(t, "host3", -time.Second)
	good := m.Host(t, "host4", 0)
	for name, c := range map[string]struct {
		cert *tls.Certificate
		ok   bool
	}{
		"none":          {nil, false},
		"administrator": {admin, false},
		"another mesh":  {stranger.Certificate(), false},
		"expired":       {expired.Certificate(), false},
		"host":          {good.Certificate(), true},
	} {
		cfg := &tls.Config{RootCAs: m.First.Roots(), ServerName: "virtmesh", NextProtos: []string{port.ProtoRaft}}
		// Sent whatever the server asks for, as an attacker would.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if c.cert == nil {
				return new(tls.Certificate), nil
			}
			return c.cert, nil
		}
		conn, err := tls.Dial("tcp", p.Addr().String(), cfg)
		if err == nil {
			err = ping(t, conn)
			conn.Close()
		}
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDialVerifiesServer(t *testing.T) {
	m := identitytest.NewMesh(t)
	client := newPort(t, m.First, func(c *port.Config) {
		c.HostAt = func(addr string) string { return map[bool]string{true: "host9"}[strings.HasSuffix(addr, ":1")] }
	})
	stranger := newPort(t, identitytest.NewMesh(t).Host(t, "host2", 0))
	expired := newPort(t, m.Host(t, "host3", -time.Second))
	for name, p := range map[string]*port.Port{"another mesh": stranger, "expired": expired} {
		echo(t, listen(t, p, port.ProtoRaft))
		_, err := client.Dial(t.Context(), port.ProtoRaft, p.Addr().String())
		var bad *tls.CertificateVerificationError
		if !errors.As(err, &bad) {
			t.Errorf("%s: %v", name, err)
		}
	}
	host4 := newPort(t, m.Host(t, "host4", 0))
	echo(t, listen(t, host4, port.ProtoRaft))
	addr := host4.Addr().String()
	_, err := client.DialHost(t.Context(), port.ProtoRaft, "host5", addr)
	var peer *port.PeerError
	if !errors.As(err, &peer) || peer.Got != "host4" || peer.Want != "host5" {
		t.Errorf("another host answers: %v", err)
	}
	knows := newPort(t, m.First, func(c *port.Config) { c.HostAt = func(string) string { return "host5" } })
	if _, err := knows.Dial(t.Context(), port.ProtoRaft, addr); !errors.As(err, &peer) {
		t.Errorf("another host answers at a known address: %v", err)
	}
	if c, err := client.DialHost(t.Context(), port.ProtoRaft, "host4", addr); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}

func TestAdmit(t *testing.T) {
	m := identitytest.NewMesh(t)
	removed := errors.New("host was removed")
	p := newPort(t, m.First, func(c *port.Config) {
		c.Admit = func(peer port.Peer) error {
			if peer.Node.Name == "host2" {
				return removed
			}
			return nil
		}
	})
	echo(t, listen(t, p, port.ProtoRaft))
	gone, member := newPort(t, m.Host(t, "host2", 0)), newPort(t, m.Host(t, "host3", 0))
	echo(t, listen(t, gone, port.ProtoRaft))
	if c, err := gone.Dial(t.Context(), port.ProtoRaft, p.Addr().String()); err == nil {
		if err := ping(t, c); err == nil {
			t.Error("a removed host gets in")
		}
		c.Close()
	}
	if _, err := p.Dial(t.Context(), port.ProtoRaft, gone.Addr().String()); !errors.Is(err, removed) {
		t.Errorf("a removed host is dialled: %v", err)
	}
	api(t, p)
	for host, want := range map[string]bool{"host2": false, "host3": true} {
		if err := getAPI(p, m, m.Host(t, host, 0).Certificate()); (err == nil) != want {
			t.Errorf("%s and the API: %v", host, err)
		}
	}
	c, err := member.Dial(t.Context(), port.ProtoRaft, p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := ping(t, c); err != nil {
		t.Error(err)
	}
}

// TestAPIRefusesMalformedHosts: a certificate that the mesh signed for a host without an
// ID cannot be judged, so it is not let in for its group either.
func TestAPIRefusesMalformedHosts(t *testing.T) {
	m := identitytest.NewMesh(t)
	p := newPort(t, m.First)
	api(t, p)
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	caKey, err := m.CA.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := identity.ParseKey(caKey)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "eve", Organization: []string{identity.NodeOrganization}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, m.CA.Certificate(), &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if err := getAPI(p, m, &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}); err == nil {
		t.Error("a certificate in the group of the hosts that names none gets in")
	}
}

// api serves the API of p with an empty answer to everything.
func api(t *testing.T, p *port.Port) {
	t.Helper()
	l, err := p.API()
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		_ = server.Close()
		wg.Wait()
	})
}

// getAPI asks the API of p for something, with a client certificate unless it is nil.
func getAPI(p *port.Port, m *identitytest.Mesh, cert *tls.Certificate) error {
	cfg := &tls.Config{RootCAs: m.First.Roots()}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + p.Addr().String())
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
