package enrol_test

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port"
	"virtmesh/agent/port/enrol"
	"virtmesh/agent/port/porttest"
	"virtmesh/raftstore"
)

// member is a host of a mesh that answers the join protocol on the loopback.
type member struct {
	*identitytest.Mesh
	port   *port.Port
	tokens *identity.Tokens
	signer *identity.Signer
}

func newMember(t *testing.T, change ...func(*enrol.ServerConfig)) *member {
	t.Helper()
	m := identitytest.NewMesh(t)
	return serve(t, m, m.First, change...)
}

// serve answers the join protocol as the given host.
func serve(t *testing.T, m *identitytest.Mesh, id *identity.Identity, change ...func(*enrol.ServerConfig)) *member {
	t.Helper()
	signer := identity.NewSigner(m.Store, 0)
	cfg := enrol.DefaultServerConfig()
	cfg.Signer, cfg.Host, cfg.Version = signer, id.Host(), "v1.2.3"
	for _, c := range change {
		c(&cfg)
	}
	handler, err := enrol.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &member{Mesh: m, port: openPort(t, id, handler), tokens: identity.NewTokens(m.Store), signer: signer}
}

func openPort(t *testing.T, id *identity.Identity, handler http.Handler) *port.Port {
	t.Helper()
	cfg := port.DefaultConfig()
	cfg.Bind, cfg.Credentials = "127.0.0.1:0", id
	opened, err := port.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := opened.Listen(port.ProtoJoin)
	if err != nil {
		t.Fatal(err)
	}
	rpc := port.ServeRPC(l, handler, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := errors.Join(rpc.Shutdown(context.Background()), opened.Close()); err != nil {
			t.Error(err)
		}
	})
	return opened
}

// options are those of host2, for a fresh state directory and a fresh token.
func (m *member) options(t *testing.T) enrol.Options {
	t.Helper()
	token, _, err := m.tokens.Create(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	o := enrol.DefaultOptions()
	o.Dir, o.Addresses, o.Token = filepath.Join(t.TempDir(), "state"), []string{m.port.Addr().String()}, token
	o.Host, o.MeshAddress, o.GossipAddress = "host2", "10.0.0.2:7443", "10.0.0.2:7946"
	o.Version, o.Levels, o.Pause = "v1.2.3", raftstore.LevelRange{Lowest: 2, Highest: 3}, 10*time.Millisecond
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
	if err := enrol.Join(t.Context(), o); err != nil {
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
	if _, err := identity.SelfIssuer(id, nil, 0).IssueNode(t.Context(), csr); err != nil {
		t.Errorf("the host cannot sign for itself: %v", err)
	}
	rec, err := identity.NewHosts(m.Store).Get(t.Context(), "host2", raftstore.ReadOptions{})
	if err != nil || rec.Version != "v1.2.3" || rec.FeatureLevel != 3 || rec.TokenID != o.Token.ID {
		t.Errorf("record %+v, %v", rec, err)
	}
	if entries, err := os.ReadDir(o.Dir); len(entries) != 1 || err != nil {
		t.Errorf("the state directory holds %v, %v", entries, err)
	}
	if err := enrol.Join(t.Context(), o); !errors.Is(err, identity.ErrInitialised) {
		t.Errorf("second join: %v", err)
	}
	if _, err := identity.InitMesh(o.Dir, identity.InitOptions{
		Host: "host2", MeshAddress: "10.0.0.2:7443", GossipAddress: "10.0.0.2:7946",
	}); !errors.Is(err, identity.ErrInitialised) {
		t.Errorf("init after join: %v", err)
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
			err := enrol.Join(t.Context(), o)
			if rounds == 1 {
				if !errors.Is(err, enrol.ErrUnavailable) {
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
				if err := enrol.Join(t.Context(), skewed); err == nil {
					t.Fatal("joined with a wrong clock")
				}
				err = enrol.Join(t.Context(), o)
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
	dead := porttest.Address(t)
	o := m.options(t)
	o.Addresses = []string{dead, m.port.Addr().String()}
	if err := enrol.Join(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	o = m.options(t)
	o.Addresses = []string{dead}
	err := enrol.Join(t.Context(), o)
	if !errors.Is(err, enrol.ErrUnavailable) || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "http:") {
		t.Errorf("no member: %v", err)
	}
	if err != nil && (!strings.Contains(err.Error(), "no host answers there") || strings.Contains(err.Error(), "cannot admit")) {
		t.Errorf("the mesh is blamed for an address: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(o.Dir, ".join-*")); err != nil || len(left) != 0 {
		t.Errorf("the state directory has %q, %v; no host was asked", left, err)
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
	chain, err := m.CA.IssueNode(&key.PublicKey, identity.NewNode("host2"), nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	issued := identity.Issued{Chain: chain, CABundle: m.CA.CertificatePEM()}
	for name, body := range map[string]any{
		"not JSON":        "x",
		"empty":           enrol.Answer{},
		"for another key": enrol.Answer{Issued: issued, GossipKeys: m.First.GossipKeys()},
		"no pinned CA":    enrol.Answer{Issued: identity.Issued{Chain: chain, CABundle: other.CA.CertificatePEM()}, GossipKeys: m.First.GossipKeys()},
		"no gossip key":   enrol.Answer{Issued: issued},
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
			if err := enrol.Join(t.Context(), o); err == nil || strings.Contains(err.Error(), "\n") {
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
	if err := enrol.Join(t.Context(), o); err == nil {
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
	if err := enrol.Join(t.Context(), o); !errors.Is(err, enrol.ErrUnavailable) {
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
