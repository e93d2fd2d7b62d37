package membership

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"virtmesh/agent/identity"
	"virtmesh/agent/port/admin"
	"virtmesh/raftstore"
)

// TestRestoreOnAHostWithoutCopy: the last resort of a mesh of which no copy is left.
func TestRestoreOnAHostWithoutCopy(t *testing.T) {
	path, config := newMachine(t, "host1")
	first := found(t, path, config)
	var backup bytes.Buffer
	if _, err := first.store.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	shutdown(first)
	_, err := Restore(t.Context(), config, bytes.NewReader(backup.Bytes()), Recovery{})
	if !errors.Is(err, raftstore.ErrHasState) || !strings.Contains(err.Error(), "mv "+config.raftDir()) {
		t.Errorf("restored over a copy: %v", err)
	}
	loseCopy(t, first)
	if _, err := Restore(t.Context(), config, bytes.NewReader(backup.Bytes()), Recovery{}); err != nil {
		t.Fatal(err)
	}
	a := boot(t, config)
	if err := a.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.NewHosts(a.store).Get(t.Context(), "host1", raftstore.ReadOptions{}); err != nil {
		t.Errorf("the restored mesh does not know its host: %v", err)
	}
	if _, err := openSocketAndRestore(t, config); err == nil || !strings.Contains(err.Error(), "running") {
		t.Errorf("restored under a running agent: %v", err)
	}
}

// openSocketAndRestore restores while something answers on the agent's socket.
func openSocketAndRestore(t *testing.T, config Config) (raftstore.Recovered, error) {
	t.Helper()
	listener, err := admin.OpenSocket(config.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return Restore(t.Context(), config, strings.NewReader(""), Recovery{})
}
