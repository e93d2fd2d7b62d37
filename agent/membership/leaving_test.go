package membership

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// idle are the duties of a host that runs and publishes nothing.
type idle struct{}

func (idle) Pause(context.Context) error        { return nil }
func (idle) Resume()                            {}
func (idle) Bury(context.Context, string) error { return nil }

// leave takes a host out of its mesh as 'virtmesh agent leave' does.
func leave(t *testing.T, m *Member) error {
	t.Helper()
	return m.Administration(objects.FromRaft(m.store, nil), idle{}, nil).Leave(t.Context())
}

// hasLeft fails the test unless a host is no member any more, and m can go on without it.
func hasLeft(t *testing.T, m *Member, host string, id identity.Node) {
	t.Helper()
	ctx := t.Context()
	hosts := identity.NewHosts(m.store)
	if _, err := hosts.Get(ctx, host, raftstore.ReadOptions{}); !errors.Is(err, fault.NoHost) {
		t.Errorf("the record of %s: %v", host, err)
	}
	if err := hosts.StillMember(id, identity.Pin{}); err == nil {
		t.Errorf("what %s signs is still believed", host)
	}
	if _, err := m.store.Commit(ctx, raftstore.Txn{Ops: []raftstore.Op{{Key: "/k", Value: []byte("v")}}}); err != nil {
		t.Errorf("without %s nothing can be changed: %v", host, err)
	}
	if err := m.store.Confirm(ctx); err != nil {
		t.Errorf("without %s nothing is certain: %v", host, err)
	}
	for _, p := range m.store.Status(ctx).Peers {
		if p.ID == host {
			t.Errorf("%s is still in the group: %+v", host, p)
		}
	}
}

// The only voter of two hosts leaves, with its record and as the only host that holds the key
// of the CA; the other host votes, holds the key and admits further hosts.
func TestTheOnlyVoterLeaves(t *testing.T) {
	t.Parallel()
	first, second, bundle := withdrawn(t)
	stepEscrow(t, second, nothingToEscrow)
	left := make(chan error, 1)
	go func() { left <- leave(t, first) }()
	stepUntil(t, second, fetchKey)
	stepEscrow(t, second, settleNote)
	if err := <-left; err != nil {
		t.Fatal(err)
	}
	node := first.identity.Node()
	shutdown(first)
	hasLeft(t, second, "host1", node)
	if !bytes.Equal(second.identity.CAKey(), bundle.CAKey) {
		t.Error("host2 has another key")
	}
	if known := second.identity.KnownBundle(); !sameNote(custodyOf(t, second).Bundle, known) {
		t.Errorf("host2 knows the bundle %+v", known)
	}
	path3, config3 := newMachine(t, "host3")
	invite(t, second, path3, config3)
}

// A host that has handed over its vote, and whose agent ends before its record does, is a
// host of the mesh as before; so the command can be given again.
func TestLeavingGoesOnAfterACrash(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	if err := first.handOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	shutdown(first)
	if _, err := second.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: "/k", Value: []byte("v")}}}); err != nil {
		t.Fatalf("host2 cannot go on alone: %v", err)
	}
	again := boot(t, first.config)
	if err := again.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, _, err := again.store.Get(t.Context(), "/k", raftstore.ReadOptions{}); err != nil || string(r.Value) != "v" {
		t.Errorf("host1 reads %q, %v", r.Value, err)
	}
	if err := again.store.Confirm(t.Context()); err != nil {
		t.Errorf("host1 is not certain of its state: %v", err)
	}
	if err := leave(t, again); err != nil {
		t.Fatal(err)
	}
	node := again.identity.Node()
	shutdown(again)
	hasLeft(t, second, "host1", node)
}

// Of three hosts the voters leave one after the other, the leader first.
func TestVotersLeaveOneByOne(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	path3, config3 := newMachine(t, "host3")
	invite(t, second, path3, config3)
	third := boot(t, config3)
	if err := third.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*Member{first, second} {
		if err := leave(t, m); err != nil {
			t.Fatal(fmt.Errorf("%s: %w", m.config.Name, err))
		}
		node := m.identity.Node()
		shutdown(m)
		hasLeft(t, third, node.Name, node)
	}
	raftstoretest.WaitServing(t, third.store)
}

// The only voter is not removed by force while it works: nobody talks to a host that is barred,
// so the others could decide nothing any more.
func TestTheOnlyVoterIsNotBarred(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	op := &meshv1alpha1.Operation{Spec: meshv1alpha1.OperationSpec{Target: "host1", Force: true}}
	for _, step := range second.RemovalSteps(op, objects.FromRaft(second.store, nil), nil, nil)[:2] {
		if err := step.Do(t.Context(), nil); !errors.Is(err, fault.Conflict) || !strings.Contains(fault.Of(err).Remedy, "agent leave") {
			t.Errorf("%s: %v", step.Name, err)
		}
	}
	if _, err := identity.NewHosts(second.store).Get(t.Context(), "host1", raftstore.ReadOptions{}); err != nil {
		t.Error(err)
	}
	if err := leave(t, first); err != nil {
		t.Fatal(err)
	}
}
