package agent

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"virtmesh/agent/identity"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
	"virtmesh/storage"
)

// A file system that is not mounted costs the host its pool, not its agent.
func TestPoolThatIsNotThereIsLeftOut(t *testing.T) {
	state := t.TempDir()
	config := DefaultConfig()
	config.Name, config.StateDir = "host1", state
	config.Pools = []PoolConfig{{Name: "a", Path: filepath.Join(state, "a")}, {Name: "b", Path: filepath.Join(state, "b")}}
	start := func() (map[string]storage.Pool, map[string]error) {
		t.Helper()
		a := &Agent{}
		defer a.shutdown()
		pools, unusable, err := (&host{config: config}).openPools(a, -1, -1, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return pools, unusable
	}
	if pools, unusable := start(); len(pools) != 2 || len(unusable) != 0 {
		t.Fatalf("opened %v, not %v", pools, unusable)
	}
	mounted := filepath.Join(state, "mounted")
	if err := errors.Join(os.Rename(config.Pools[0].Path, mounted), os.Mkdir(config.Pools[0].Path, 0o755)); err != nil {
		t.Fatal(err)
	}
	if pools, unusable := start(); len(pools) != 1 || pools["b"] == nil || !errors.Is(unusable["a"], storage.ErrUnavailable) {
		t.Errorf("opened %v, not %v", pools, unusable)
	}
	if err := errors.Join(os.Remove(config.Pools[0].Path), os.Rename(mounted, config.Pools[0].Path)); err != nil {
		t.Fatal(err)
	}
	if pools, unusable := start(); len(pools) != 2 || len(unusable) != 0 {
		t.Errorf("mounted again: opened %v, not %v", pools, unusable)
	}
}

func TestRemovedHost(t *testing.T) {
	store := raftstoretest.New(t)
	h := &host{raft: store}
	if _, err := store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: identity.HostKey("host2"), Value: []byte(`{"name": "host2"}`)}}}); err != nil {
		t.Fatal(err)
	}
	if removed, err := h.removed(t.Context(), "host2"); removed || err != nil {
		t.Errorf("a member: %v, %v", removed, err)
	}
	if err := identity.NewHosts(store).Expel(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	if removed, err := h.removed(t.Context(), "host2"); !removed || err != nil {
		t.Errorf("one that was removed: %v, %v", removed, err)
	}
	if removed, err := h.removed(t.Context(), "no/host"); removed || err == nil {
		t.Errorf("what cannot be a host: %v, %v", removed, err)
	}
}
