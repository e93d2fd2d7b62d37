package enrol_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port"
	"virtmesh/agent/port/enrol"
	"virtmesh/raftstore"
)

func TestRenewal(t *testing.T) {
	m := newMember(t)
	o := m.options(t)
	if err := enrol.Join(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	dead := "127.0.0.1:1"
	for name, id := range map[string]*identity.Identity{
		"valid":   mustOpen(t, o.Dir),
		"expired": m.Host(t, "host2", -time.Second),
	} {
		cfg := identity.DefaultRenewerConfig()
		cfg.Identity = id
		cfg.Issuers = []identity.Issuer{enrol.Renewal(enrol.RenewalConfig{
			Identity: id, Members: func() []string { return []string{dead, m.port.Addr().String()} },
		})}
		cfg.RetryMin, cfg.RetryMax = time.Hour, time.Hour
		r, err := identity.NewRenewer(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Renew(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		r.Shutdown()
		if left := time.Until(id.Leaf().NotAfter); left < 23*time.Hour {
			t.Errorf("%s: %v left after the renewal", name, left)
		}
	}
	id := mustOpen(t, o.Dir)
	issuer := enrol.Renewal(enrol.RenewalConfig{Identity: id, Members: func() []string { return []string{m.port.Addr().String()} }})
	key, _ := identity.NewKey()
	csr, _ := identity.NewCSR(key, "host2")
	if err := identity.NewHosts(m.Store).Remove(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	if _, err := issuer.IssueNode(t.Context(), csr); !errors.Is(err, fault.NoHost) {
		t.Errorf("a removed host renews: %v", err)
	}
}

func mustOpen(t *testing.T, dir string) *identity.Identity {
	t.Helper()
	id, err := identity.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestServerIsBounded(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	m := newMember(t, func(c *enrol.ServerConfig) { c.MaxRequests = 1 })
	o, second := m.options(t), m.options(t)
	var once atomic.Bool
	m.Store.BeforeRead = func(o raftstore.ReadOptions) error {
		if o.Consistency == raftstore.Linearizable && once.CompareAndSwap(false, true) {
			close(entered)
			<-release
		}
		return nil
	}
	done := make(chan error)
	go func() { done <- enrol.Join(context.Background(), o) }()
	<-entered
	second.Host, second.Rounds = "host3", 1
	if err := enrol.Join(t.Context(), second); !errors.Is(err, enrol.ErrUnavailable) {
		t.Errorf("over the limit: %v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := enrol.Join(t.Context(), second); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// slowBody is a body that does not come before release is closed.
type slowBody struct{ asked, release chan struct{} }

func (b slowBody) Read([]byte) (int, error) {
	close(b.asked)
	<-b.release
	return 0, io.ErrUnexpectedEOF
}

// TestSlowCallersBlockNobody: more callers than there are places send a request without
// its body, and a host joins.
func TestSlowCallersBlockNobody(t *testing.T) {
	m := identitytest.NewMesh(t)
	cfg := enrol.DefaultServerConfig()
	cfg.Signer, cfg.Host = identity.NewSigner(m.Store, 0), "host1"
	server, err := enrol.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	var slow sync.WaitGroup
	for range cfg.MaxRequests + 1 {
		body := slowBody{asked: make(chan struct{}), release: release}
		slow.Go(func() {
			w := httptest.NewRecorder()
			server.ServeHTTP(w, httptest.NewRequest("POST", "/mesh/v1/join", body))
			if w.Code != http.StatusBadRequest {
				t.Errorf("a body that does not come: status %d", w.Code)
			}
		})
		<-body.asked
	}
	at := openPort(t, m.First, server).Addr().String()
	token, _, err := identity.NewTokens(m.Store).Create(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	o := enrol.DefaultOptions()
	o.Dir, o.Addresses, o.Token, o.Rounds = filepath.Join(t.TempDir(), "state"), []string{at}, token, 1
	o.Host, o.MeshAddress, o.GossipAddress = "host2", "10.0.0.2:7443", "10.0.0.2:7946"
	if err := enrol.Join(t.Context(), o); err != nil {
		t.Error(err)
	}
	close(release)
	slow.Wait()
}

// TestBodyHasADeadline: over a real connection a body that does not come ends the request.
func TestBodyHasADeadline(t *testing.T) {
	m := newMember(t, func(c *enrol.ServerConfig) { c.BodyTimeout = 50 * time.Millisecond })
	conn, err := tls.Dial("tcp", m.port.Addr().String(), &tls.Config{
		RootCAs: m.First.Roots(), ServerName: "virtmesh", NextProtos: []string{port.ProtoJoin},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /mesh/v1/join HTTP/1.1\r\nHost: mesh\r\nContent-Length: 100\r\n\r\n{")
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestServerRefusesRequests(t *testing.T) {
	m := identitytest.NewMesh(t)
	cfg := enrol.DefaultServerConfig()
	cfg.Signer, cfg.Host = identity.NewSigner(m.Store, 0), "host1"
	server, err := enrol.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/mesh/v1/join", "", http.StatusMethodNotAllowed},
		{"POST", "/mesh/v2/join", "{}", http.StatusNotFound},
		{"POST", "/mesh/v1/join", "{}", http.StatusBadRequest},
		{"POST", "/mesh/v1/join", "{} {}", http.StatusBadRequest},
		{"POST", "/mesh/v1/join", strings.Repeat(" ", 1<<20), http.StatusBadRequest},
		{"POST", "/mesh/v1/renew", "{", http.StatusBadRequest},
		{"POST", "/mesh/v1/renew", "{}", http.StatusForbidden},
	} {
		w := httptest.NewRecorder()
		server.ServeHTTP(w, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
		if w.Code != c.status {
			t.Errorf("%s %s %.20q: status %d, want %d", c.method, c.path, c.body, w.Code, c.status)
		}
	}
	m.Store.BeforeRead = func(raftstore.ReadOptions) error { return fmt.Errorf("disk sda is broken") }
	w := httptest.NewRecorder()
	server.ServeHTTP(w, httptest.NewRequest("POST", "/mesh/v1/renew", strings.NewReader("{}")))
	if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "sda") {
		t.Errorf("a stranger is told %d %s", w.Code, w.Body)
	}
}

func TestServerConfig(t *testing.T) {
	good := enrol.DefaultServerConfig()
	good.Signer, good.Host = identity.NewSigner(identitytest.NewStore(), 0), "host1"
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(*enrol.ServerConfig){
		"Signer":      func(c *enrol.ServerConfig) { c.Signer = nil },
		"Host":        func(c *enrol.ServerConfig) { c.Host = "" },
		"MaxSkew":     func(c *enrol.ServerConfig) { c.MaxSkew = 0 },
		"Timeout":     func(c *enrol.ServerConfig) { c.Timeout = 0 },
		"BodyTimeout": func(c *enrol.ServerConfig) { c.BodyTimeout = 0 },
		"MaxRequests": func(c *enrol.ServerConfig) { c.MaxRequests = 0 },
		"Logger":      func(c *enrol.ServerConfig) { c.Logger = nil },
	} {
		bad := good
		spoil(&bad)
		if _, err := enrol.NewServer(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestStrangersTakeNoPlaceOfOthers lets a stranger's token wait for the mesh, as without a
// quorum: renewals and machines with a token that this host knows are served meanwhile.
func TestStrangersTakeNoPlaceOfOthers(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	m := newMember(t, func(c *enrol.ServerConfig) { c.MaxRequests = 1 })
	stranger, another, guest := m.options(t), m.options(t), m.options(t)
	var once atomic.Bool
	m.Store.BeforeRead = func(o raftstore.ReadOptions) error {
		if o.Consistency == raftstore.Linearizable && once.CompareAndSwap(false, true) {
			close(entered)
			<-release
		}
		return nil
	}
	stranger.Token.ID, stranger.Rounds, stranger.Host = "aaaaaaaa", 1, "host3"
	done := make(chan error)
	go func() { done <- enrol.Join(context.Background(), stranger) }()
	<-entered
	another.Token.ID, another.Rounds, another.Host = "bbbbbbbb", 1, "host4"
	if err := enrol.Join(t.Context(), another); !errors.Is(err, enrol.ErrUnavailable) {
		t.Errorf("a second stranger: %v", err)
	}
	if err := enrol.Join(t.Context(), guest); err != nil {
		t.Errorf("a machine with a token: %v", err)
	}
	issuer := enrol.Renewal(enrol.RenewalConfig{Identity: mustOpen(t, guest.Dir), Members: func() []string { return []string{m.port.Addr().String()} }})
	key, _ := identity.NewKey()
	csr, _ := identity.NewCSR(key, guest.Host)
	if _, err := issuer.IssueNode(t.Context(), csr); err != nil {
		t.Errorf("a host renews: %v", err)
	}
	close(release)
	if err := <-done; !errors.Is(err, fault.TokenInvalid) {
		t.Errorf("the stranger: %v", err)
	}
}

// TestWrongSecretCostsNoRead: guessing the secret of a token that exists makes the host
// ask no other host.
func TestWrongSecretCostsNoRead(t *testing.T) {
	m := newMember(t)
	o := m.options(t)
	var asked atomic.Int64
	m.Store.BeforeRead = func(o raftstore.ReadOptions) error {
		if o.Consistency == raftstore.Linearizable {
			asked.Add(1)
		}
		return nil
	}
	o.Token.Secret[0] ^= 1
	if err := enrol.Join(t.Context(), o); !errors.Is(err, fault.TokenInvalid) || asked.Load() != 0 {
		t.Errorf("error %v after %d linearizable reads", err, asked.Load())
	}
}

// TestGuessedTokensCostFewReads: each token that a stranger makes up would make the host ask
// the leader; few do.
func TestGuessedTokensCostFewReads(t *testing.T) {
	m := identitytest.NewMesh(t)
	cfg := enrol.DefaultServerConfig()
	cfg.Signer, cfg.Host = identity.NewSigner(m.Store, 0), "host1"
	server, err := enrol.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	m.Store.BeforeRead = func(o raftstore.ReadOptions) error {
		if o.Consistency == raftstore.Linearizable {
			asked++
		}
		return nil
	}
	key, _ := identity.NewKey()
	csr, err := identity.NewCSR(key, "host2")
	if err != nil {
		t.Fatal(err)
	}
	codes := map[int]int{}
	for i := range 200 {
		body, err := json.Marshal(enrol.Request{
			TokenID: fmt.Sprintf("aaaaaa%c%c", 'a'+i/20, 'a'+i%20), Secret: make([]byte, 32), CSR: csr, Host: "host2",
			MeshAddress: "10.0.0.2:7443", GossipAddress: "10.0.0.2:7946", Clock: time.Now(), FeatureLevel: 1,
		})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		server.ServeHTTP(w, httptest.NewRequest("POST", "/mesh/v1/join", bytes.NewReader(body)))
		codes[w.Code]++
	}
	if asked == 0 || asked > 40 || codes[http.StatusServiceUnavailable] != 200-asked {
		t.Errorf("%d reads for 200 tokens; answers %v", asked, codes)
	}
}

// TestRefusalsDoNotFillTheLog lets a stranger ask a hundred times.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	m := identitytest.NewMesh(t)
	var log bytes.Buffer
	cfg := enrol.DefaultServerConfig()
	cfg.Signer, cfg.Host, cfg.Logger = identity.NewSigner(m.Store, 0), "host1", slog.New(slog.NewTextHandler(&log, nil))
	server, err := enrol.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		server.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/mesh/v1/join", strings.NewReader("{}")))
	}
	if n := strings.Count(log.String(), "join refused"); n < 1 || n > 20 {
		t.Errorf("%d lines for 100 refusals", n)
	}
}
