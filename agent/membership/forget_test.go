package membership

import (
	"strings"
	"testing"

	"virtmesh/agent/identity"
)

// TestForgetWithoutTheMesh: the way out for a machine that the mesh has removed.
func TestForgetWithoutTheMesh(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	first := found(t, path, config)
	if err := Forget(config, path); err == nil || !strings.Contains(err.Error(), "stop it first") || strings.Contains(err.Error(), "temporarily") {
		t.Errorf("forgot the mesh under a running agent: %v", err)
	}
	if member, err := identity.Initialised(config.StateDir); err != nil || !member {
		t.Fatalf("a refused Forget deleted the identity: %v", err)
	}
	if err := Resync(config); err == nil {
		t.Error("resynced the only copy")
	}
	shutdown(first)
	if err := Forget(config, path); err != nil {
		t.Fatal(err)
	}
	if err := Init(config, configFile(path), nil); err != nil {
		t.Errorf("the machine cannot be a host again: %v", err)
	}
	if err := Forget(config, path); err != nil {
		t.Fatal(err)
	}
	if err := Forget(config, path); err == nil || !strings.Contains(err.Error(), "belongs to no mesh") {
		t.Errorf("forgot a mesh twice: %v", err)
	}
}
