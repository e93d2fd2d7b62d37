package join_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/join"
	"virtmesh/agent/meshport"
	"virtmesh/raftstore"
)

// member is a host of a mesh that answers the join protocol on the loopback.
type member struct {
	*identitytest.Mesh
	port   *meshport.Port
	tokens *identity.Tokens
	signer *identity.Signer
}

func newMember(t *testing.T, change ...func(*join.ServerConfig)) *member {
	t.Helper()
	m := identitytest.NewMesh(t)
	return serve(t, m, m.First, change...)
}

// serve answers the join protocol as the given host.
func serve(t *testing.T, m *identitytest.Mesh, id *identity.Identity, change ...func(*join.ServerConfig)) *member {
	t.Helper()
	signer := identity.NewSigner(m.Store, 0)
	cfg := join.DefaultServerConfig()
	cfg.Signer, cfg.Host, cfg.Version = signer, id.Host(), "v1.2.3"
	for _, c := range change {
		c(&cfg)
	}
	handler, err := join.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &member{Mesh: m, port: openPort(t, id, handler), tokens: identity.NewTokens(m.Store), signer: signer}
}

func openPort(t *testing.T, id *identity.Identity, handler http.Handler) *meshport.Port {
	t.Helper()
	cfg := meshport.DefaultConfig()
	cfg.Bind, cfg.Credentials = "127.0.0.1:0", id
	port, err := meshport.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := port.Listen(meshport.ProtoJoin)
	if err != nil {
		t.Fatal(err)
	}
	rpc := meshport.ServeRPC(l, handler, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := errors.Join(rpc.Shutdown(context.Background()), port.Close()); err != nil {
			t.Error(err)
		}
	})
	return port
}

// options are those of host2, for a fresh state directory and a fresh token.
func (m *member) options(t *testing.T) join.Options {
	t.Helper()
	token, _, err := m.tokens.Create(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	o := join.DefaultOptions()
	o.Dir, o.Addresses, o.Token = filepath.Join(t.TempDir(), "state"), []string{m.port.Addr().String()}, token
	o.Host, o.MeshAddress, o.GossipAddress = "host2", "10.0.0.2:7443", "10.0.0.2:7946"
	o.Version, o.FeatureLevel, o.Pause = "v1.2.3", 3, 10*time.Millisecond
	return o
}

func (m *member) hosts(t *testing.T) []string {
	t.Helper()
	recs, err := identity.NewHosts(m.Store).List(t.Context(), raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range recs {
		names = append(names, r.Name)
	}
	return names
}

func TestJoin(t *testing.T) {
	m := newMember(t)
	o := m.options(t)
	o.SANs = []string{"host2.example.org"}
	if err := join.Join(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	id, err := identity.Open(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	info := id.Info()
	if info.Host != "host2" || info.MeshID != m.First.MeshID() || info.MeshAddress != "10.0.0.2:7443" || id.Founder() {
		t.Errorf("identity %+v", info)
	}
	want := identity.Seed{Host: "host1", MeshAddress: "127.0.0.1:7443", GossipAddress: "127.0.0.1:7946"}
	if !slices.Equal(info.Seeds, []identity.Seed{want}) {
		t.Errorf("seeds %+v", info.Seeds)
	}
	if !slices.EqualFunc(id.GossipKeys(), m.First.GossipKeys(), slices.Equal) {
		t.Error("another gossip key")
	}
	for _, name := range []string{"host2", "10.0.0.2", "host2.example.org", "virtmesh"} {
		if err := id.Leaf().VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	csr, _ := identity.NewCSR(id.Certificate().PrivateKey.(*ecdsa.PrivateKey), "host2")
	if _, err := identity.SelfIssuer(id, 0).IssueNode(t.Context(), csr); err != nil {
		t.Errorf("the host cannot sign for itself: %v", err)
	}
	rec, err := identity.NewHosts(m.Store).Get(t.Context(), "host2", raftstore.ReadOptions{})
	if err != nil || rec.Version != "v1.2.3" || rec.FeatureLevel != 3 || rec.TokenID != o.Token.ID {
		t.Errorf("record %+v, %v", rec, err)
	}
	if entries, err := os.ReadDir(o.Dir); len(entries) != 1 || err != nil {
		t.Errorf("the state directory holds %v, %v", entries, err)
	}
	if err := join.Join(t.Context(), o); !errors.Is(err, identity.ErrInitialised) {
		t.Errorf("second join: %v", err)
	}
	if _, err := identity.InitMesh(o.Dir, identity.InitOptions{
		Host: "host2", MeshAddress: "10.0.0.2:7443", GossipAddress: "10.0.0.2:7946",
	}); !errors.Is(err, identity.ErrInitialised) {
		t.Errorf("init after join: %v", err)
	}
}

// TestJoinRefused: each reason has its own error, in one line, and leaves nothing on
// either side.
func TestJoinRefused(t *testing.T) {
	m := newMember(t, func(c *join.ServerConfig) { c.MinFeatureLevel = func() uint32 { return 3 } })
	used := m.options(t)
	used.Host = "host9"
	if err := join.Join(t.Context(), used); err != nil {
		t.Fatal(err)
	}
	expired := m.options(t).Token
	expire(t, m, expired)
	foreign := newMember(t)

	var skew *join.ClockSkewError
	var version *join.VersionError
	var taken *identity.HostTakenError
	var pin *join.PinError
	tests := map[string]struct {
		spoil func(*join.Options)
		want  func(error) bool
		text  string
	}{
		"wrong secret":    {func(o *join.Options) { o.Token.Secret[0] ^= 1 }, is(identity.ErrTokenInvalid), "not valid in this mesh"},
		"unknown token":   {func(o *join.Options) { o.Token.ID = "aaaaaaaa" }, is(identity.ErrTokenInvalid), "not valid in this mesh"},
		"used token":      {func(o *join.Options) { o.Token = used.Token }, is(identity.ErrTokenUsed), "has been used by host host9"},
		"expired token":   {func(o *join.Options) { o.Token = expired }, is(identity.ErrTokenExpired), "has expired at 20"},
		"clock behind":    {func(o *join.Options) { o.Now = shifted(-45 * time.Second) }, as(&skew), "is 45s behind the mesh's"},
		"clock a year on": {func(o *join.Options) { o.Now = shifted(365 * 24 * time.Hour) }, as(&skew), "is 8760h0m0s ahead of the mesh's"},
		"name taken":      {func(o *join.Options) { o.Host = "host1" }, as(&taken), "host name host1 is taken"},
		"old version":     {func(o *join.Options) { o.FeatureLevel = 2 }, as(&version), "version v1.2.3 (feature level 2) is too old for this mesh, which needs feature level 3"},
		"another mesh":    {func(o *join.Options) { o.Addresses = []string{foreign.port.Addr().String()} }, as(&pin), "is not a host of the mesh that the token is for"},
		"bad name":        {func(o *join.Options) { o.Host = "Host" }, isNot(join.ErrUnavailable), "only lower-case"},
		"bad address":     {func(o *join.Options) { o.MeshAddress = "10.0.0.2" }, isNot(join.ErrUnavailable), "mesh address"},
		"no member":       {func(o *join.Options) { o.Addresses = nil }, isNot(join.ErrUnavailable), "address of a member is missing"},
	}
	before := m.hosts(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o := m.options(t)
			o.Host = "host3"
			test.spoil(&o)
			err := join.Join(t.Context(), o)
			if err == nil || !test.want(err) || !strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, test.text)
			}
			if done, err := identity.Initialised(o.Dir); done || err != nil {
				t.Errorf("the host is a member: %v, %v", done, err)
			}
			if after := m.hosts(t); !slices.Equal(before, after) {
				t.Errorf("hosts %v became %v", before, after)
			}
		})
	}
	if skew == nil || skew.Limit != join.DefaultMaxSkew || version == nil || version.Want != 3 {
		t.Errorf("details lost: %+v, %+v", skew, version)
	}
}

func is(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }

func isNot(target error) func(error) bool {
	return func(err error) bool { return !errors.Is(err, target) }
}

func as[E error](target *E) func(error) bool {
	return func(err error) bool { return errors.As(err, target) }
}

func shifted(by time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(by) }
}

// expire moves the end of a token into the past.
func expire(t *testing.T, m *member, token identity.Token) {
	t.Helper()
	rec, _, err := m.Store.Get(t.Context(), identity.TokenKey(token.ID), raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var value identity.TokenRecord
	if err := json.Unmarshal(rec.Value, &value); err != nil {
		t.Fatal(err)
	}
	value.Expires = time.Now().Add(-time.Second)
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: rec.Key, Value: data}}}); err != nil {
		t.Fatal(err)
	}
}

// TestTokenStaysHome: a host of another mesh sees neither the token nor any request.
func TestTokenStaysHome(t *testing.T) {
	m := newMember(t)
	var asked atomic.Int64
	foreign := openPort(t, identitytest.NewMesh(t).First, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	o := m.options(t)
	o.Addresses = []string{foreign.Addr().String()}
	var pin *join.PinError
	if err := join.Join(t.Context(), o); !errors.As(err, &pin) {
		t.Errorf("join: %v", err)
	}
	if asked.Load() != 0 {
		t.Error("the stranger was asked")
	}
}

// TestForgedChain: a stranger that shows the pinned CA behind a certificate of his own.
func TestForgedChain(t *testing.T) {
	m := newMember(t)
	stranger := identitytest.NewMesh(t).First.Certificate()
	forged := *stranger
	forged.Certificate = [][]byte{stranger.Certificate[0], m.CA.Certificate().Raw}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{forged}, NextProtos: []string{meshport.ProtoJoin}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake()
			c.Close()
		}
	}()
	o := m.options(t)
	o.Addresses = []string{l.Addr().String()}
	var pin *join.PinError
	if err := join.Join(t.Context(), o); !errors.As(err, &pin) || strings.Contains(err.Error(), "\n") {
		t.Errorf("join: %v", err)
	}
	l.Close()
	<-done
}

// TestServerExpired: the clocks agree, so it is the server that is late.
func TestServerExpired(t *testing.T) {
	m := newMember(t)
	late := serve(t, m.Mesh, m.Host(t, "host5", -time.Second))
	o := m.options(t)
	o.Addresses = []string{late.port.Addr().String()}
	if err := join.Join(t.Context(), o); !errors.Is(err, join.ErrServerCertificate) {
		t.Errorf("join: %v", err)
	}
	o.Addresses = append(o.Addresses, m.port.Addr().String())
	if err := join.Join(t.Context(), o); err != nil {
		t.Errorf("the other member was not asked: %v", err)
	}
}

// TestLostAnswer: the server admits the host, but the answer never arrives; the host
// tries again and gets in, at once or in a second run.
func TestLostAnswer(t *testing.T) {
	for name, rounds := range map[string]int{"same run": 3, "next run": 1} {
		t.Run(name, func(t *testing.T) {
			m := newMember(t)
			var lost atomic.Bool
			lost.Store(true)
			m.Store.AfterCommit = func(raftstore.Txn) error {
				if lost.CompareAndSwap(false, true) {
					return raftstore.ErrUnknownOutcome
				}
				return nil
			}
			o := m.options(t)
			lost.Store(false)
			o.Rounds = rounds
			err := join.Join(t.Context(), o)
			if rounds == 1 {
				if !errors.Is(err, join.ErrUnavailable) {
					t.Fatalf("first run: %v", err)
				}
				if done, _ := identity.Initialised(o.Dir); done {
					t.Fatal("half joined")
				}
				if !slices.Equal(m.hosts(t), []string{"host1", "host2"}) {
					t.Fatal("the server did not admit the host, so the test tests nothing")
				}
				// In between something else goes wrong; the key must survive it.
				skewed := o
				skewed.Now = shifted(time.Hour)
				if err := join.Join(t.Context(), skewed); err == nil {
					t.Fatal("joined with a wrong clock")
				}
				err = join.Join(t.Context(), o)
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := identity.Open(o.Dir); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOtherMembersAreTried(t *testing.T) {
	m := newMember(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := closed.Addr().String()
	closed.Close()
	o := m.options(t)
	o.Addresses = []string{dead, m.port.Addr().String()}
	if err := join.Join(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	o = m.options(t)
	o.Addresses = []string{dead}
	err = join.Join(t.Context(), o)
	if !errors.Is(err, join.ErrUnavailable) || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "http:") {
		t.Errorf("no member: %v", err)
	}
}

// TestAnswerIsChecked: whatever a member answers, nothing is written that does not fit
// the token and the key.
func TestAnswerIsChecked(t *testing.T) {
	m := newMember(t)
	other := identitytest.NewMesh(t)
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := m.CA.IssueNode(&key.PublicKey, "host2", nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	issued := identity.Issued{Chain: chain, CABundle: m.CA.CertificatePEM()}
	for name, body := range map[string]any{
		"not JSON":        "x",
		"empty":           join.Answer{},
		"for another key": join.Answer{Issued: issued, GossipKeys: m.First.GossipKeys()},
		"no pinned CA":    join.Answer{Issued: identity.Issued{Chain: chain, CABundle: other.CA.CertificatePEM()}, GossipKeys: m.First.GossipKeys()},
		"no gossip key":   join.Answer{Issued: issued},
	} {
		t.Run(name, func(t *testing.T) {
			bad := openPort(t, m.First, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					_ = json.NewEncoder(w).Encode(map[string]any{"clock": time.Now()})
				} else {
					_ = json.NewEncoder(w).Encode(body)
				}
			}))
			o := m.options(t)
			o.Addresses = []string{bad.Addr().String()}
			if err := join.Join(t.Context(), o); err == nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("join: %v", err)
			}
			if done, err := identity.Initialised(o.Dir); done || err != nil {
				t.Errorf("the host is a member: %v, %v", done, err)
			}
		})
	}
}

func TestCannotWrite(t *testing.T) {
	m := newMember(t)
	o := m.options(t)
	if err := os.WriteFile(o.Dir, nil, 0o600); err != nil { // a file where the directory should be
		t.Fatal(err)
	}
	if err := join.Join(t.Context(), o); err == nil {
		t.Error("joined without a directory")
	}
	if slices.Contains(m.hosts(t), "host2") {
		t.Error("the token was used although the host could not keep its key")
	}
}

func TestKeyIsPrivate(t *testing.T) {
	m := newMember(t)
	o := m.options(t)
	m.Store.BeforeCommit = func(raftstore.Txn) error { return raftstore.ErrNoLeader }
	if err := join.Join(t.Context(), o); !errors.Is(err, join.ErrUnavailable) {
		t.Fatalf("without a leader: %v", err)
	}
	entries, err := os.ReadDir(o.Dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("the state directory holds %v, %v", entries, err)
	}
	info, err := entries[0].Info()
	if err != nil || info.Mode().Perm() != fs.FileMode(0o600) {
		t.Errorf("the key has mode %v, %v", info.Mode(), err)
	}
}

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
