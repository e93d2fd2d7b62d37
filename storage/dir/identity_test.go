package dir

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"virtmesh/storage"
)

func remembered(t *testing.T) *Pool {
	memory := filepath.Join(t.TempDir(), "memory")
	return open(t, func(c *Config) { c.Memory = memory })
}

// unmount takes the pool's directory away and leaves an empty one, as it is seen
// when a file system is not mounted. It returns where the pool is.
func unmount(t *testing.T, p *Pool) (elsewhere string) {
	t.Helper()
	elsewhere = p.cfg.Dir + ".elsewhere"
	if err := errors.Join(os.Rename(p.cfg.Dir, elsewhere), os.Mkdir(p.cfg.Dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return elsewhere
}

func TestKnownPoolIsNotMadeAnew(t *testing.T) {
	p, ctx := remembered(t), context.Background()
	if _, err := p.Create(ctx, storage.VolumeSpec{Name: "v", Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	elsewhere := unmount(t, p)
	_, err := Open(p.cfg)
	if !errors.Is(err, storage.ErrUnavailable) || !strings.Contains(err.Error(), p.cfg.Memory) {
		t.Errorf("an empty directory in the pool's place: %v", err)
	}
	if left, _ := os.ReadDir(p.cfg.Dir); len(left) != 0 {
		t.Errorf("made in the empty directory: %v", left)
	}
	if err := os.Remove(p.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(p.cfg); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("no directory in the pool's place: %v", err)
	}
	other := remembered(t)
	if err := os.Rename(other.cfg.Dir, p.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(p.cfg); !errors.Is(err, storage.ErrUnavailable) || !strings.Contains(err.Error(), other.id) {
		t.Errorf("another pool in its place: %v", err)
	}
	// The pool may move, and be given up.
	moved := p.cfg
	moved.Dir = elsewhere
	again, err := Open(moved)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := again.Get(ctx, "v"); err != nil {
		t.Error(err)
	}
	if err := os.Remove(p.cfg.Memory); err != nil {
		t.Fatal(err)
	}
	anew, err := Open(p.cfg)
	if err != nil {
		t.Fatal(err)
	}
	anew.Close()
}

func TestNothingIsMissingFromAPoolThatIsNotThere(t *testing.T) {
	p, ctx := open(t, nil), context.Background()
	if _, err := p.Create(ctx, storage.VolumeSpec{Name: "v", Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	unmount(t, p)
	if _, err := p.Get(ctx, "v"); !errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	if err := p.Delete(ctx, "v"); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("delete: %v", err)
	}
	if _, err := p.Create(ctx, storage.VolumeSpec{Name: "w", Size: 1 << 20}); err == nil {
		t.Error("a volume was made below the mount point")
	}
}

func TestHostsThatMakeAPoolAtOnceMakeOne(t *testing.T) {
	cfg := DefaultConfig("pool", filepath.Join(t.TempDir(), "pool"))
	cfg.Shared = true
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			cfg := cfg
			cfg.Host = "h" + string(rune('a'+i))
			p, err := Open(cfg)
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Close()
			ids[i] = p.id
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("they made %v", ids)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(cfg.Dir, "pool.json.*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
