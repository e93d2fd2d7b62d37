package join_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/join"
	"virtmesh/raftstore"
)

func TestRenewal(t *testing.T) {
	m := newMember(t)
	o := m.options(t)
	if err := join.Join(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	dead := "127.0.0.1:1"
	for name, id := range map[string]*identity.Identity{
		"valid":   mustOpen(t, o.Dir),
		"expired": m.Host(t, "host2", -time.Second),
	} {
		cfg := identity.DefaultRenewerConfig()
		cfg.Identity = id
		cfg.Issuers = []identity.Issuer{join.Renewal(join.RenewalConfig{
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
	issuer := join.Renewal(join.RenewalConfig{Identity: id, Members: func() []string { return []string{m.port.Addr().String()} }})
	key, _ := identity.NewKey()
	csr, _ := identity.NewCSR(key, "host2")
	if err := identity.NewHosts(m.Store).Remove(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	if _, err := issuer.IssueNode(t.Context(), csr); !errors.Is(err, identity.ErrNoHost) {
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
	m := newMember(t, func(c *join.ServerConfig) { c.MaxRequests = 1 })
	o, second := m.options(t), m.options(t)
	var once atomic.Bool
	m.Store.BeforeRead = func(raftstore.ReadOptions) error {
		if once.CompareAndSwap(false, true) {
			close(entered)
			<-release
		}
		return nil
	}
	done := make(chan error)
	go func() { done <- join.Join(context.Background(), o) }()
	<-entered
	second.Host, second.Rounds = "host3", 1
	if err := join.Join(t.Context(), second); !errors.Is(err, join.ErrUnavailable) {
		t.Errorf("over the limit: %v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := join.Join(t.Context(), second); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestServerRefusesRequests(t *testing.T) {
	m := identitytest.NewMesh(t)
	cfg := join.DefaultServerConfig()
	cfg.Signer, cfg.Host = identity.NewSigner(m.Store, 0), "host1"
	server, err := join.NewServer(cfg)
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
	good := join.DefaultServerConfig()
	good.Signer, good.Host = identity.NewSigner(identitytest.NewStore(), 0), "host1"
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(*join.ServerConfig){
		"Signer":      func(c *join.ServerConfig) { c.Signer = nil },
		"Host":        func(c *join.ServerConfig) { c.Host = "" },
		"MaxSkew":     func(c *join.ServerConfig) { c.MaxSkew = 0 },
		"Timeout":     func(c *join.ServerConfig) { c.Timeout = 0 },
		"MaxRequests": func(c *join.ServerConfig) { c.MaxRequests = 0 },
		"Logger":      func(c *join.ServerConfig) { c.Logger = nil },
	} {
		bad := good
		spoil(&bad)
		if _, err := join.NewServer(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
