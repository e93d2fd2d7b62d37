package agent

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/join"
	"virtmesh/agent/meshport"
)

func TestNobodyIsAdmittedBeforeTheReplicaIsOpen(t *testing.T) {
	a := &Agent{}
	node := identity.NewNode("host2")
	if err := a.admit(node); !errors.Is(err, errNotOpen) {
		t.Errorf("admitted by a host that knows nothing: %v", err)
	}
	a.hosts.Store(identity.NewHosts(identitytest.NewStore()))
	if err := a.admit(node); err != nil {
		t.Errorf("refused by a host that knows nothing against it: %v", err)
	}
}

// TestRemovedMachineLearnsWhy: other hosts refuse its connections without a word, so it
// asks, and its start fails with what to do.
func TestRemovedMachineLearnsWhy(t *testing.T) {
	m := identitytest.NewMesh(t)
	dir := joinedHost(t, m, "host2")
	id, err := identity.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{config: Config{Name: "host2"}, identity: id}
	if err := a.askWhetherExpelled(t.Context()); err != nil {
		t.Errorf("a member: %v", err)
	}
	if err := identity.NewHosts(m.Store).Expel(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	err = a.askWhetherExpelled(t.Context())
	if !errors.Is(err, identity.ErrExpelled) || !strings.Contains(err.Error(), "join it with a new token") {
		t.Errorf("a removed machine: %v", err)
	}
}

// joinedHost joins a host to m, whose first host serves the join protocol until the test
// ends, and returns its state directory.
func joinedHost(t *testing.T, m *identitytest.Mesh, name string) string {
	t.Helper()
	cfg := meshport.DefaultConfig()
	cfg.Bind, cfg.Credentials = "127.0.0.1:0", m.First
	port, err := meshport.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	serverCfg := join.DefaultServerConfig()
	serverCfg.Signer, serverCfg.Host = identity.NewSigner(m.Store, 0), "host1"
	server, err := join.NewServer(serverCfg)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := port.Listen(meshport.ProtoJoin)
	if err != nil {
		t.Fatal(err)
	}
	rpc := meshport.ServeRPC(listener, server, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := errors.Join(rpc.Shutdown(context.Background()), port.Close()); err != nil {
			t.Error(err)
		}
	})
	at := port.Addr().String()
	if err := identity.NewHosts(m.Store).Update(t.Context(), m.First.Node(), func(r *identity.HostRecord) { r.MeshAddress = at }); err != nil {
		t.Fatal(err)
	}
	token, _, err := identity.NewTokens(m.Store).Create(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	o := join.DefaultOptions()
	o.Dir, o.Addresses, o.Token, o.Host = filepath.Join(t.TempDir(), "state"), []string{at}, token, name
	o.MeshAddress, o.GossipAddress = "10.0.0.2:7443", "10.0.0.2:7946"
	if err := join.Join(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return o.Dir
}
