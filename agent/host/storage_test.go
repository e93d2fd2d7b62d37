package host

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"virtmesh/storage"
)

// A file system that is not mounted costs the host its pool, not its agent.
func TestPoolThatIsNotThereIsLeftOut(t *testing.T) {
	state := t.TempDir()
	configured := []PoolConfig{{Name: "a", Path: filepath.Join(state, "a")}, {Name: "b", Path: filepath.Join(state, "b")}}
	start := func() (map[string]storage.Pool, map[string]error) {
		t.Helper()
		pools, unusable, err := openPools(poolOptions{
			pools: configured, host: "host1", stateDir: state, uid: -1, gid: -1, log: slog.New(slog.DiscardHandler),
		})
		for _, pool := range pools {
			defer pool.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		return pools, unusable
	}
	if pools, unusable := start(); len(pools) != 2 || len(unusable) != 0 {
		t.Fatalf("opened %v, not %v", pools, unusable)
	}
	mounted := filepath.Join(state, "mounted")
	if err := errors.Join(os.Rename(configured[0].Path, mounted), os.Mkdir(configured[0].Path, 0o755)); err != nil {
		t.Fatal(err)
	}
	if pools, unusable := start(); len(pools) != 1 || pools["b"] == nil || !errors.Is(unusable["a"], storage.ErrUnavailable) {
		t.Errorf("opened %v, not %v", pools, unusable)
	}
	if err := errors.Join(os.Remove(configured[0].Path), os.Rename(mounted, configured[0].Path)); err != nil {
		t.Fatal(err)
	}
	if pools, unusable := start(); len(pools) != 2 || len(unusable) != 0 {
		t.Errorf("mounted again: opened %v, not %v", pools, unusable)
	}
}
