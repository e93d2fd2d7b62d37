package membership

import (
	"context"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
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

// TestRecoveryPutsHostsIntoQuarantine: the status names the hosts that keep machines from
// starting, and what to do about them; a host that was removed is named no more.
func TestRecoveryPutsHostsIntoQuarantine(t *testing.T) {
	path, config := machine(t, "host1")
	path2, config2 := machine(t, "host2")
	first := found(t, path, config)
	if err := first.serveJoin(t.Context()); err != nil {
		t.Fatal(err)
	}
	token, _, err := identity.NewTokens(first.store).Create(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	invitation := Invitation{Address: config.MeshAddress(), Token: token.Encode(), Version: "test"}
	if err := Join(t.Context(), config2, configFile(path2), invitation); err != nil {
		t.Fatal(err)
	}
	if list := warned(t, first, "recovered"); len(list) > 0 {
		t.Errorf("before the recovery: %q", list)
	}
	shutdown(first)
	if _, err := Recover(t.Context(), config); err != nil {
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
