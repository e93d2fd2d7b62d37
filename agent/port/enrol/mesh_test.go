package enrol_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/port"
	"virtmesh/agent/port/enrol"
	"virtmesh/agent/port/porttest"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// host is a host as the agent assembles it, without gossip and VMs: identity, mesh port
// and a replica with its log on the disk.
type host struct {
	dir   string
	addr  string
	id    *identity.Identity
	port  *port.Port
	store *raftstore.Store
	rpc   *port.RPCServer
}

// start opens what is in the state directory, as after power on. renew makes a
// certificate that has ended new, as the agent does before anything else.
func start(t *testing.T, dir, addr string, renew bool) *host {
	t.Helper()
	h := &host{dir: dir, addr: addr}
	var err error
	if h.id, err = identity.Open(dir); err != nil {
		t.Fatal(err)
	}
	if renew {
		renewNow(t, h.id)
	}
	cfg := port.DefaultConfig()
	cfg.Bind, cfg.Credentials = addr, h.id
	if h.port, err = port.New(cfg); err != nil {
		t.Fatal(err)
	}
	storeCfg := raftstoretest.Config(raftstoretest.NewNetwork(), h.id.Host())
	storeCfg.Addr, storeCfg.DataDir, storeCfg.PeerOf = addr, filepath.Join(dir, "raft"), port.PeerOf
	storeCfg.Bootstrap = h.id.Founder()
	storeCfg.Signer = identity.NewNotary(h.id, func(identity.Node, identity.Pin) error { return nil })
	if storeCfg.Raft, err = h.port.StreamLayer(port.ProtoRaft); err != nil {
		t.Fatal(err)
	}
	if storeCfg.RPC, err = h.port.StreamLayer(port.ProtoStore); err != nil {
		t.Fatal(err)
	}
	if h.store, err = raftstore.Open(t.Context(), storeCfg); err != nil {
		t.Fatal(err)
	}
	serverCfg := enrol.DefaultServerConfig()
	serverCfg.Signer, serverCfg.Host = identity.NewSigner(h.store, 0), h.id.Host()
	server, err := enrol.NewServer(serverCfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := h.port.Listen(port.ProtoJoin)
	if err != nil {
		t.Fatal(err)
	}
	h.rpc = port.ServeRPC(l, server, slog.New(slog.DiscardHandler))
	return h
}

// renewNow asks the members first, which do not answer, and then the host itself.
func renewNow(t *testing.T, id *identity.Identity) {
	t.Helper()
	cfg := identity.DefaultRenewerConfig()
	cfg.Identity = id
	cfg.Issuers = []identity.Issuer{
		enrol.Renewal(enrol.RenewalConfig{Identity: id, Members: func() []string { return []string{"127.0.0.1:1"} }}),
		identity.SelfIssuer(id, nil, time.Hour),
	}
	r, err := identity.NewRenewer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Shutdown()
	if err := r.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// letExpire gives a host a certificate that has ended, as time would have done.
func letExpire(t *testing.T, ca *identity.CA, id *identity.Identity) {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.IssueNode(&key.PublicKey, id.Node(), nil, -time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Install(key, identity.Issued{Chain: chain, CABundle: id.CABundle()}); err != nil {
		t.Fatal(err)
	}
}

func (h *host) stop(t *testing.T) {
	t.Helper()
	if err := h.rpc.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := h.store.Close(); err != nil {
		t.Error(err)
	}
	if err := h.port.Close(); err != nil {
		t.Error(err)
	}
}

// put writes a key and fails the test if that does not work soon.
func (h *host) put(t *testing.T, key string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), raftstoretest.ReadyTimeout)
	defer cancel()
	if _, err := h.store.Commit(ctx, raftstore.Txn{Ops: []raftstore.Op{{Key: key, Value: []byte("x")}}}); err != nil {
		t.Fatalf("%s cannot write: %v", h.id.Host(), err)
	}
}

// TestMeshComesBack is the life of a mesh of three real replicas over their mesh ports:
// init, join, then all hosts are off until every certificate has ended, and come back.
func TestMeshComesBack(t *testing.T) {
	var dirs, addrs []string
	for range 3 {
		dirs, addrs = append(dirs, filepath.Join(t.TempDir(), "state")), append(addrs, porttest.Address(t))
	}
	ca, err := identity.InitMesh(dirs[0], identity.InitOptions{Host: "host1", MeshAddress: addrs[0], GossipAddress: addrs[0]})
	if err != nil {
		t.Fatal(err)
	}
	hosts := []*host{start(t, dirs[0], addrs[0], false)}
	raftstoretest.WaitServing(t, hosts[0].store)
	if err := hosts[0].id.Seed(t.Context(), hosts[0].store, "v1", 1); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 3; i++ {
		token, _, err := identity.NewTokens(hosts[0].store).Create(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		o := enrol.DefaultOptions()
		// Any member will do: the third host joins through the second.
		o.Dir, o.Addresses, o.Token, o.Host = dirs[i], []string{addrs[i-1]}, token, fmt.Sprintf("host%d", i+1)
		o.MeshAddress, o.GossipAddress = addrs[i], addrs[i]
		if err := enrol.Join(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		h := start(t, dirs[i], addrs[i], false)
		if err := h.store.Join(t.Context(), []string{addrs[0]}); err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
	}
	hosts[2].put(t, "/before")
	for _, h := range hosts {
		h.stop(t)
		letExpire(t, ca, h.id)
	}
	for i := range hosts {
		hosts[i] = start(t, dirs[i], addrs[i], true)
		defer hosts[i].stop(t)
	}
	for i, h := range hosts {
		h.put(t, fmt.Sprintf("/after/%d", i))
		if _, _, err := h.store.Get(t.Context(), "/before", raftstore.ReadOptions{}); err != nil {
			t.Errorf("%s: %v", h.id.Host(), err)
		}
	}
	if _, err := identity.NewHosts(hosts[2].store).Get(t.Context(), "host2", raftstore.ReadOptions{}); err != nil {
		t.Error(err)
	}
}
