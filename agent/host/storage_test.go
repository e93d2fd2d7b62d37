package host

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/host/reserve"
	"virtmesh/gossip"
	"virtmesh/storage"
)

// sickPools are ways in which a pool's directory, which holds a pool that the host has
// used, becomes unusable; the returned function makes it well again.
var sickPools = map[string]func(t *testing.T, dir string) (heal func() error){
	"not mounted": func(t *testing.T, dir string) func() error {
		if err := errors.Join(os.Rename(dir, dir+".away"), os.Mkdir(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
		return func() error { return errors.Join(os.Remove(dir), os.Rename(dir+".away", dir)) }
	},
	"pool.json is empty": func(t *testing.T, dir string) func() error {
		marker := filepath.Join(dir, "pool.json")
		content, err := os.ReadFile(marker)
		if err := errors.Join(err, os.Truncate(marker, 0)); err != nil {
			t.Fatal(err)
		}
		return func() error { return os.WriteFile(marker, content, 0o644) }
	},
	"a file in place of a folder": func(t *testing.T, dir string) func() error {
		tmp := filepath.Join(dir, "tmp")
		if err := errors.Join(os.RemoveAll(tmp), os.WriteFile(tmp, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
		return func() error { return os.Remove(tmp) }
	},
	"read-only": func(t *testing.T, dir string) func() error {
		if os.Geteuid() != 0 {
			t.Skip("needs root to mount")
		}
		if err := errors.Join(
			syscall.Mount(dir, dir, "", syscall.MS_BIND, ""),
			syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""),
		); err != nil {
			t.Fatal(err)
		}
		heal := func() error { return syscall.Unmount(dir, syscall.MNT_DETACH) }
		t.Cleanup(func() { _ = heal() })
		return heal
	},
}

// A pool that cannot be opened costs the host that pool, not its agent; the Node says
// why, and the pool is used again once it is well.
func TestSickPoolIsUnavailable(t *testing.T) {
	for name, spoil := range sickPools {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir()
			configured := []PoolConfig{{Name: "a", Path: filepath.Join(state, "a")}, {Name: "b", Path: filepath.Join(state, "b")}}
			start := func() *poolSet {
				t.Helper()
				set, err := openPools(t.Context(), poolOptions{
					pools: configured, host: "host1", stateDir: state, log: slog.New(slog.DiscardHandler),
				})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(set.Close)
				return set
			}
			if set := start(); len(set.Pools()) != 2 || set.condition().Status != corev1.ConditionTrue {
				t.Fatalf("opened %v: %+v", set.Pools(), set.condition())
			}
			heal := spoil(t, configured[0].Path)
			set := start()
			if pools := set.Pools(); len(pools) != 1 || pools["b"] == nil || set.Unusable("a") == nil || set.Unusable("b") != nil {
				t.Fatalf("opened %v, not a: %v, not b: %v", pools, set.Unusable("a"), set.Unusable("b"))
			}
			told := set.condition()
			if told.Status != corev1.ConditionFalse || !strings.Contains(told.Message, "pool a") || strings.Contains(told.Message, "pool b") {
				t.Errorf("the Node says %+v", told)
			}
			set.tryAll(t.Context())
			if again := set.condition(); again != told {
				t.Errorf("the same trouble is told anew: %q, before %q", again.Message, told.Message)
			}
			if name != "a file in place of a folder" && CheckPool(configured[0], state) == nil {
				t.Error("doctor sees nothing")
			}
			if err := heal(); err != nil {
				t.Fatal(err)
			}
			if err := CheckPool(configured[0], state); err != nil {
				t.Errorf("doctor about a pool that is well: %v", err)
			}
			set.tryAll(t.Context())
			if len(set.Pools()) != 2 || set.Unusable("a") != nil || set.condition().Status != corev1.ConditionTrue {
				t.Errorf("well again: opened %v, %v", set.Pools(), set.condition())
			}
		})
	}
}

// On a full disk the host must be able to delete volumes, also after a restart.
func TestVolumesOnAFullDiskCanBeDeleted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	state, mount := t.TempDir(), filepath.Join(t.TempDir(), "mount")
	if err := errors.Join(os.Mkdir(mount, 0o755), syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=4m,nr_inodes=64")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(mount, syscall.MNT_DETACH) })
	start := func() storage.Pool {
		t.Helper()
		set, err := openPools(t.Context(), poolOptions{
			pools: []PoolConfig{{Name: "a", Path: filepath.Join(mount, "a")}}, host: "host1", stateDir: state, log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(set.Close)
		if set.Pools()["a"] == nil {
			t.Fatal(set.Unusable("a"))
		}
		return set.Pools()["a"]
	}
	if _, err := start().Create(t.Context(), storage.VolumeSpec{Name: "v", Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	var err error
	for ballast := filepath.Join(mount, "ballast"); err == nil; ballast = filepath.Join(ballast, "x") {
		err = os.Mkdir(ballast, 0o755)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	pool := start()
	if err := pool.Delete(t.Context(), "v"); err != nil {
		t.Errorf("delete on a full disk: %v", err)
	}
	if _, err := pool.Get(t.Context(), "v"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the volume is still there: %v", err)
	}
}

// A host promises no more than its file systems have beside the reserve, and what shares one is
// added up.
func TestNewDisksFitTheFileSystems(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	const mib = int64(1) << 20
	state, other := t.TempDir(), t.TempDir()
	for dir, size := range map[string]string{state: "40m", other: "20m"} {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	}
	log := slog.New(slog.DiscardHandler)
	kept, err := reserve.New(state, mib, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	set, err := openPools(t.Context(), poolOptions{
		pools:    []PoolConfig{{Name: "local", Path: filepath.Join(state, "local")}, {Name: "fast", Path: filepath.Join(other, "fast")}, {Name: "nfs", Path: filepath.Join(other, "nfs"), Shared: true}},
		promised: func(host string) map[string]int64 { return map[string]int64{"local": int64(len(host))} },
		host:     "host1", stateDir: state, log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(set.Close)
	d := disks{kept, set, mib}
	for _, test := range []struct {
		name      string
		ephemeral int64
		volumes   map[string]int64
		reason    string
	}{
		{"within both", 18 * mib, map[string]int64{"local": 18 * mib, "fast": 18 * mib}, ""},
		{"each fits, and not both", 20 * mib, map[string]int64{"local": 20 * mib}, "on the disk of pool local"},
		{"the other file system", 0, map[string]int64{"fast": 20 * mib}, "on the disk of pool fast"},
		{"no such pool", 0, map[string]int64{"slow": 1}, "cannot use pool slow"},
	} {
		err := d.check(test.ephemeral, test.volumes)
		if (err == nil) != (test.reason == "") || err != nil && !strings.Contains(err.Error(), test.reason) {
			t.Errorf("%s: %v, want %q", test.name, err, test.reason)
		}
	}
	for name, most := range map[string]int64{gossip.StateDisk: 39 * mib, "local": 39 * mib, "fast": 19 * mib} {
		if told := d.space()[name]; told.Free > most || told.Free < most-mib {
			t.Errorf("the mesh is told of %d bytes in %q, want about %d", told.Free, name, most)
		}
	}
	// What may be promised is twice what guests can have there, if the mesh says so: on the disk
	// of the state less a tenth, elsewhere less the reserve. A pool that others have, too, is
	// nobody's.
	for percent, most := range map[int64][]int64{100: {36 * mib, 19 * mib}, 200: {72 * mib, 38 * mib}} {
		got := d.claimable(percent)
		if len(got) != 2 || !got[0].State || !slices.Equal(got[0].Pools, []string{"local"}) || got[1].State || !slices.Equal(got[1].Pools, []string{"fast"}) {
			t.Fatalf("file systems %+v", got)
		}
		for i, n := range most {
			if got[i].Bytes > n || got[i].Bytes < n-mib/4 {
				t.Errorf("of disk %d, %d may be promised, want about %d", i, got[i].Bytes, n)
			}
		}
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(set)
	want := `# HELP virtmesh_pool_promised_bytes Size of the volumes that the pool has or is to have, from feature level 4 on.
# TYPE virtmesh_pool_promised_bytes gauge
virtmesh_pool_promised_bytes{pool="fast"} 0
virtmesh_pool_promised_bytes{pool="local"} 5
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "virtmesh_pool_promised_bytes"); err != nil {
		t.Error(err)
	}
}

// Until every pool has answered once, the host does not say what may be promised: it would take
// back what it has published of a pool whose storage is slow to come.
func TestAPoolThatHasNotAnsweredIsNotForgotten(t *testing.T) {
	state := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	kept, err := reserve.New(state, 0, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(state, "a")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := openPools(t.Context(), poolOptions{pools: []PoolConfig{{Name: "a", Path: path}}, host: "host1", stateDir: state, log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(set.Close)
	d := disks{kept, set, 0}
	if got := d.claimable(100); got != nil {
		t.Errorf("with a pool that is not there: %+v", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	set.tryAll(t.Context())
	if got := d.claimable(100); len(got) != 1 || !slices.Equal(got[0].Pools, []string{"a"}) {
		t.Errorf("once it is there: %+v", got)
	}
}
