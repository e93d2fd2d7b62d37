package membership

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/level"
	"virtmesh/agent/port"
	"virtmesh/agent/port/enrol"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

func TestNobodyIsAdmittedBeforeTheReplicaIsOpen(t *testing.T) {
	t.Parallel()
	var a Admission
	peer := port.Peer{Node: identity.NewNode("host2"), Proto: port.ProtoRPC}
	if err := a.Admit(peer); !errors.Is(err, errNotOpen) {
		t.Errorf("admitted by a host that knows nothing: %v", err)
	}
	a.open(identitytest.NewStore(), &groupOf{level: level.Apart - 1}, nil, nil)
	if err := a.Admit(peer); err != nil {
		t.Errorf("refused by a host that knows nothing against it: %v", err)
	}
}

// TestRemovedMachineLearnsWhy: other hosts refuse its connections without a word, so it
// asks, and its start fails with what to do.
func TestRemovedMachineLearnsWhy(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	cfg := enrol.DefaultServerConfig()
	cfg.Signer, cfg.Host = identity.NewSigner(m.Store, 0), "host1"
	dir, err := joinHost(t, m, cfg, raftstore.LevelRange{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := renewals{config: Config{Name: "host2"}, identity: id, peers: NewPeers("host2", id, slog.New(slog.DiscardHandler))}
	if err := r.askWhetherExpelled(t.Context()); err != nil {
		t.Errorf("a member: %v", err)
	}
	hosts := identity.NewHosts(m.Store)
	if err := hosts.Update(t.Context(), id.Node(), func(r *identity.HostRecord) { r.KeyPin, r.KeyKept = "another", true }); err != nil {
		t.Fatal(err)
	}
	if err := r.askWhyRefused(t.Context()); !errors.Is(err, fault.Forbidden) || !strings.Contains(fault.Of(err).Remedy, "put the newer one back") {
		t.Errorf("a machine with another key: %v", err)
	}
	if err := r.askWhetherExpelled(t.Context()); err != nil {
		t.Errorf("a machine with another key is no removed one: %v", err)
	}
	if err := hosts.Expel(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	err = r.askWhetherExpelled(t.Context())
	if !errors.Is(err, fault.Expelled) || !strings.Contains(err.Error(), "join it with a new token") {
		t.Errorf("a removed machine: %v", err)
	}
}

// TestHostsThatDoNotKnowTheLevelAreRefused: the agent tells the join protocol which level
// the mesh has, whatever the hosts that gossip could do, and the refused host is told what
// to install.
func TestHostsThatDoNotKnowTheLevelAreRefused(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	a := newMember(Config{Name: "host1"}, Options{Version: "v1.7.0", Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	a.store, a.signer = raftstoretest.New(t), identity.NewSigner(m.Store, 0)
	now := a.store.FeatureLevel()
	for _, test := range []struct {
		levels raftstore.LevelRange
		want   error
		text   string
	}{
		{raftstore.LevelRange{Lowest: now - 1, Highest: now - 1}, fault.TooOld, "install version v1.7.0 or newer"},
		{raftstore.LevelRange{Lowest: now + 1, Highest: now + 2}, fault.TooNew, "raise the mesh first"},
	} {
		a.options.Metrics = prometheus.NewRegistry()
		_, err := joinHost(t, m, a.joinConfig(), test.levels)
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), "v1.2.0") || !strings.Contains(err.Error(), test.text) {
			t.Errorf("a host that knows %s: %v", test.levels, err)
		}
	}
	a.options.Metrics = prometheus.NewRegistry()
	if _, err := joinHost(t, m, a.joinConfig(), raftstore.LevelRange{Lowest: now, Highest: now + 1}); err != nil {
		t.Errorf("a newer host that knows this level: %v", err)
	}
}

// joinHost joins host2, of version v1.2.0, which knows the given levels, to m, whose first host
// serves the join protocol until the test ends. It returns the state directory.
func joinHost(t *testing.T, m *identitytest.Mesh, serverCfg enrol.ServerConfig, levels raftstore.LevelRange) (string, error) {
	t.Helper()
	cfg := port.DefaultConfig()
	cfg.Bind, cfg.Credentials = "127.0.0.1:0", m.First
	opened, err := port.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server, err := enrol.NewServer(serverCfg)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := opened.Listen(port.ProtoJoin)
	if err != nil {
		t.Fatal(err)
	}
	rpc := port.ServeRPC(listener, server, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := errors.Join(rpc.Shutdown(context.Background()), opened.Close()); err != nil {
			t.Error(err)
		}
	})
	at := opened.Addr().String()
	if err := identity.NewHosts(m.Store).Update(t.Context(), m.First.Node(), func(r *identity.HostRecord) { r.MeshAddress = at }); err != nil {
		t.Fatal(err)
	}
	token, _, err := identity.NewTokens(m.Store).Create(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	o := enrol.DefaultOptions()
	o.Dir, o.Addresses, o.Token, o.Host = filepath.Join(t.TempDir(), "state"), []string{at}, token, "host2"
	o.MeshAddress, o.GossipAddress = "10.0.0.2:7443", "10.0.0.2:7946"
	o.Version, o.Levels = "v1.2.0", levels
	return o.Dir, enrol.Join(t.Context(), o)
}

func TestRemovedHost(t *testing.T) {
	t.Parallel()
	store := raftstoretest.New(t)
	h := NewPeers("host1", nil, slog.New(slog.DiscardHandler))
	h.hosts.Store(identity.NewHosts(store))
	if _, err := store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: identity.HostKey("host2"), Value: []byte(`{"name": "host2"}`)}}}); err != nil {
		t.Fatal(err)
	}
	if removed, err := h.Removed(t.Context(), "host2"); removed || err != nil {
		t.Errorf("a member: %v, %v", removed, err)
	}
	if err := identity.NewHosts(store).Expel(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	if removed, err := h.Removed(t.Context(), "host2"); !removed || err != nil {
		t.Errorf("one that was removed: %v, %v", removed, err)
	}
	if removed, err := h.Removed(t.Context(), "no/host"); removed || err == nil {
		t.Errorf("what cannot be a host: %v, %v", removed, err)
	}
}
