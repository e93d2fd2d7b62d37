package membership

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// warned returns the warnings of a status that contain words.
func warned(t *testing.T, m *Member, words string) []string {
	t.Helper()
	status, err := m.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, warning := range status.Warnings {
		if strings.Contains(warning, words) {
			found = append(found, warning)
		}
	}
	return found
}

// pair founds a mesh of host1 and makes host2 a member of it, with a copy of the state.
func pair(t *testing.T) (first, second *Member) {
	t.Helper()
	path, config := newMachine(t, "host1")
	path2, config2 := newMachine(t, "host2")
	first = found(t, path, config)
	invite(t, first, path2, config2)
	second = boot(t, config2)
	if err := second.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	return first, second
}

// invite makes a machine a member of the mesh of m.
func invite(t *testing.T, m *Member, path string, config Config) {
	t.Helper()
	if err := m.serveJoin(t.Context()); err != nil {
		t.Fatal(err)
	}
	token, _, err := identity.NewTokens(m.store).Create(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	invitation := Invitation{Address: m.config.MeshAddress(), Token: token.Encode(), Version: "test"}
	if err := Join(t.Context(), config, configFile(path), invitation); err != nil {
		t.Fatal(err)
	}
}

// TestRecoverRefusesWhileThereIsALeader: a new group would replace that of the leader, and
// every host of it would stop.
func TestRecoverRefusesWhileThereIsALeader(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	shutdown(second)
	_, err := Recover(t.Context(), second.config, Recovery{})
	if err == nil || !strings.Contains(err.Error(), "host1, at "+first.config.MeshAddress()+", has a leader") || !strings.Contains(err.Error(), "agent resync") {
		t.Errorf("recovered beside a leader: %v", err)
	}
	if _, err := Restore(t.Context(), second.config, strings.NewReader(""), Recovery{}); err == nil || !strings.Contains(err.Error(), "has a leader") {
		t.Errorf("restored beside a leader: %v", err)
	}
	if again := boot(t, second.config); again.store.Err() != nil {
		t.Errorf("the refused recovery changed the copy: %v", again.store.Err())
	} else {
		shutdown(again)
	}
	shutdown(first)
	// Something answers at the address and does not say who it is.
	mute, err := net.Listen("tcp", first.config.MeshAddress())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := Recover(ctx, second.config, Recovery{}); err == nil || !strings.Contains(err.Error(), "does not say whether it has a leader") {
		t.Errorf("recovered although host1 may have a leader: %v", err)
	}
	if err := mute.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(t.Context(), second.config, Recovery{}); err != nil {
		t.Errorf("the other host is lost: %v", err)
	}
}

// TestRecoverByForce: the operator may know better than the host that answers.
func TestRecoverByForce(t *testing.T) {
	t.Parallel()
	_, second := pair(t)
	shutdown(second)
	if _, err := Recover(t.Context(), second.config, Recovery{Force: true}); err != nil {
		t.Errorf("recovered by force: %v", err)
	}
}

// A machine that was expelled has the last usable copy: the mesh that is recovered from it has
// the machine as a host, so the next start must not end its guests.
func TestAnExpelledHostForgetsItWithTheRecovery(t *testing.T) {
	t.Parallel()
	_, second := pair(t)
	shutdown(second)
	if err := second.identity.KeepExpulsion(identity.Expulsion{By: []string{"host1"}, GuestsEnded: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(t.Context(), second.config, Recovery{Force: true}); err != nil {
		t.Fatal(err)
	}
	back := boot(t, second.config)
	if err := back.joinStore(t.Context()); err != nil {
		t.Errorf("the recovered mesh does not start: %v", err)
	}
}

// A state that has the machine's removal would make a mesh that refuses its only voter.
func TestNoMeshIsFoundedOnAMachineThatItRemoved(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	shutdown(second)
	before, _ := backUp(t, first, true)
	if err := identity.NewHosts(first.store).Expel(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	after, _ := backUp(t, first, true)
	shutdown(first)
	if err := second.identity.KeepExpulsion(identity.Expulsion{By: []string{"host1"}}); err != nil {
		t.Fatal(err)
	}
	loseCopy(t, second)
	_, err := Restore(t.Context(), second.config, bytes.NewReader(after), Recovery{})
	if !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "host2 is no host of the mesh") || fault.Of(err).Remedy == "" {
		t.Errorf("a state without this host: %v", err)
	}
	if _, found, err := identity.ReadExpulsion(second.config.StateDir); err != nil || !found {
		t.Errorf("the refused recovery has changed what the host knows: expelled %v, %v", found, err)
	}
	if _, err := Restore(t.Context(), second.config, bytes.NewReader(before), Recovery{}); err != nil {
		t.Fatal(err)
	}
	if _, found, err := identity.ReadExpulsion(second.config.StateDir); err != nil || found {
		t.Errorf("the host of the restored mesh counts as expelled: %v, %v", found, err)
	}
}

// TestRecoveryPutsHostsIntoQuarantine: the status names the hosts that keep machines from
// starting, and what to do about them; a host that was removed is named no more.
func TestRecoveryPutsHostsIntoQuarantine(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	path2, config2 := newMachine(t, "host2")
	first := found(t, path, config)
	invite(t, first, path2, config2)
	if list := warned(t, first, "recovered"); len(list) > 0 {
		t.Errorf("before the recovery: %q", list)
	}
	shutdown(first)
	if _, err := Recover(t.Context(), config, Recovery{}); err != nil {
		t.Fatal(err)
	}
	back := boot(t, config)
	if err := back.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	list := warned(t, back, "host1, host2 may still run")
	if len(list) != 1 || !strings.Contains(list[0], "virtmesh agent resync --yes") || !strings.Contains(list[0], "virtmesh node remove") {
		t.Errorf("after the recovery: %q", list)
	}
	gone := removal{
		host: "host2", store: objects.FromRaft(back.store, nil), hosts: identity.NewHosts(back.store), replicas: back.store,
		letGo: func(context.Context, string) error { return nil },
	}
	if err := gone.runSteps(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list := warned(t, back, "may still run"); len(list) != 1 || strings.Contains(list[0], "host2") {
		t.Errorf("after the removal of host2: %q", list)
	}
	// host1 may still run guests that the mesh does not know, which would end its quarantine.
	self := removal{host: "host1", store: gone.store, hosts: gone.hosts, replicas: back.store}
	if err := withdrawHost(t.Context(), gone.store, self); err == nil || !strings.Contains(err.Error(), "may still run") {
		t.Errorf("a host in quarantine left: %v", err)
	}
	if _, _, err := back.store.Get(t.Context(), "/claims/quarantine/host1", raftstore.ReadOptions{}); err != nil {
		t.Errorf("the record of host1: %v", err)
	}
}

// TestWaitingHostDecidesNothing: a host that waits for a usable copy gossips, so that its
// status can be asked for. As a steward it would leave its share of the objects to nobody.
func TestWaitingHostDecidesNothing(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	var changes atomic.Int32
	defer first.peers.Deciders().Subscribe(func() { changes.Add(1) })()
	decide := func(want ...string) {
		t.Helper()
		raftstoretest.Eventually(t, func() error {
			first.peers.readRecords()
			if got := slices.Sorted(slices.Values(first.peers.Deciders().Members())); !slices.Equal(got, want) {
				return fmt.Errorf("%v decide, want %v", got, want)
			}
			return nil
		})
	}
	told := func(before int32) {
		t.Helper()
		raftstoretest.Eventually(t, func() error {
			if changes.Load() == before {
				return errors.New("nobody was told of the change")
			}
			return nil
		})
	}
	decide("host1", "host2")
	before := changes.Load()
	room := second.newWaitingRoom("waits")
	if err := room.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	decide("host1")
	told(before)
	if members := first.peers.Members(); !slices.Contains(members, "host2") {
		t.Errorf("host2 gossips, and the members are %v", members)
	}
	before = changes.Load()
	room.close()
	if err := second.peers.SetFacts(second.initialFacts()); err != nil {
		t.Fatal(err)
	}
	decide("host1", "host2")
	told(before)
}
