package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"virtmesh/raftstore"
)

// memberCommand is the argument that makes this program a member of raftstore.
const memberCommand = "member"

// runMember is one member of raftstore until its input ends.
func runMember(ctx context.Context, input io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	decoder := json.NewDecoder(input)
	var spec memberSpec
	if err := decoder.Decode(&spec); err != nil {
		return fmt.Errorf("read what to be: %w", err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, input)
		cancel()
	}()
	cfg, err := memberConfig(spec)
	if err != nil {
		return err
	}
	if cfg.Signer, err = openNotary(spec.Dir); err != nil {
		return err
	}
	store, err := raftstore.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer store.Close()
	if spec.Index != 0 {
		if err := store.Join(ctx, []string{spec.Peers[0].Raft}); err != nil {
			return err
		}
	}
	return serveMember(ctx, store, spec)
}

// memberConfig is the configuration of an agent, but for how long a replica has
// to be healthy before it may vote: a benchmark need not wait for that.
func memberConfig(spec memberSpec) (raftstore.Config, error) {
	own := spec.Peers[spec.Index]
	cfg := raftstore.DefaultConfig()
	cfg.NodeID, cfg.Addr, cfg.DataDir = memberName(spec.Index), own.Raft, spec.Dir
	cfg.Bootstrap = spec.Index == 0
	cfg.Voters.Stabilization = 500 * time.Millisecond
	cfg.Voters.Update, cfg.Voters.Reconcile = 200*time.Millisecond, 200*time.Millisecond
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	cfg.Registerer = prometheus.NewRegistry()
	rpc := map[string]string{}
	for _, p := range spec.Peers {
		rpc[p.Raft] = p.RPC
	}
	raft, err := net.Listen("tcp", own.Raft)
	if err != nil {
		return cfg, fmt.Errorf("listen for raft: %w", err)
	}
	store, err := net.Listen("tcp", own.RPC)
	if err != nil {
		return cfg, errors.Join(fmt.Errorf("listen for the store: %w", err), raft.Close())
	}
	cfg.Raft, cfg.RPC = loopback{Listener: raft}, loopback{Listener: store, places: rpc}
	return cfg, nil
}

func memberName(i int) string { return fmt.Sprintf("member%d", i) }

// loopback is a StreamLayer of plain TCP, which dials from the IP that it listens on. places
// says where a member that is known by an address listens for this protocol.
type loopback struct {
	net.Listener
	places map[string]string
}

var _ raftstore.StreamLayer = loopback{}

// Dial implements raftstore.StreamLayer.
func (l loopback) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	if place, ok := l.places[addr]; ok {
		addr = place
	}
	dialer := net.Dialer{Timeout: timeout}
	if own, ok := l.Addr().(*net.TCPAddr); ok {
		dialer.LocalAddr = &net.TCPAddr{IP: own.IP}
	}
	return dialer.Dial("tcp", addr)
}

// serveMember serves clients until ctx ends.
func serveMember(ctx context.Context, store *raftstore.Store, spec memberSpec) error {
	l, err := net.Listen("tcp", spec.Peers[spec.Index].Client)
	if err != nil {
		return fmt.Errorf("listen for clients: %w", err)
	}
	server := grpc.NewServer()
	etcdserverpb.RegisterKVServer(server, &kvServer{store: store})
	etcdserverpb.RegisterMaintenanceServer(server, &statusServer{store: store, index: spec.Index})
	go func() {
		<-ctx.Done()
		server.Stop()
	}()
	if err := server.Serve(l); err != nil {
		return fmt.Errorf("serve clients: %w", err)
	}
	return nil
}
