package dir

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtmesh/storage"
	"virtmesh/storage/program"
	"virtmesh/storage/storagetest"
)

func open(t *testing.T, edit func(*Config)) *Pool {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		if os.Geteuid() != 0 {
			t.Skip("needs qemu-img, which make packages installs")
		}
		t.Fatalf("needs qemu-img, which make packages installs: %v", err)
	}
	cfg := DefaultConfig("pool", filepath.Join(t.TempDir(), "pool"))
	cfg.Host = "h1"
	if edit != nil {
		edit(&cfg)
	}
	p, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestSuite(t *testing.T) {
	for _, f := range []storage.Format{storage.Raw, storage.QCOW2} {
		t.Run(string(f), func(t *testing.T) {
			storagetest.Run(t, func(t *testing.T) (storage.Pool, storagetest.Access) {
				return open(t, func(c *Config) { c.DefaultFormat = f }), storagetest.Files{}
			})
		})
	}
}

func TestConfig(t *testing.T) {
	good := DefaultConfig("p", "/pool")
	if err := good.Validate(); err != nil {
		t.Errorf("the default is refused: %v", err)
	}
	for field, edit := range map[string]func(*Config){
		"Name":          func(c *Config) { c.Name = "a/b" },
		"Host":          func(c *Config) { c.Host = "" },
		"Dir":           func(c *Config) { c.Dir = "relative" },
		"DefaultFormat": func(c *Config) { c.DefaultFormat = "vmdk" },
		"Log":           func(c *Config) { c.Log = nil },
	} {
		c := good
		edit(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("bad %s: %v", field, err)
		}
	}
}

func TestVolumesSurviveRestartAndCrash(t *testing.T) {
	p := open(t, nil)
	ctx := context.Background()
	v, err := p.Create(ctx, storage.VolumeSpec{Name: "v", Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	mine, other := filepath.Join(p.tmpDir(), "h1-123"), filepath.Join(p.tmpDir(), "h1-b-123")
	for _, d := range []string{mine, other} {
		if err := os.MkdirAll(filepath.Join(d, "volume"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// A folder that is no volume must not make the rest disappear.
	if err := os.MkdirAll(p.volumeDir("junk"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.Close()
	p, err = Open(p.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if got, err := p.Get(ctx, "v"); err != nil || got != v {
		t.Errorf("after a restart %+v, %v; before %+v", got, err, v)
	}
	if _, err := os.Stat(mine); !os.IsNotExist(err) {
		t.Error("this host's unfinished volume is still there")
	}
	if _, err := os.Stat(other); err != nil {
		t.Error("another host's unfinished volume was removed")
	}
	if vols, err := p.List(ctx); err != nil || len(vols) != 1 {
		t.Errorf("listed %v, %v", vols, err)
	}
}

func TestTwoHostsShareAFolder(t *testing.T) {
	a := open(t, func(c *Config) { c.Shared = true })
	cfg := a.cfg
	cfg.Host = "h2"
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx := context.Background()
	var wg sync.WaitGroup
	wins := make(chan string, 40)
	for i := range 20 {
		name := "v" + string(rune('a'+i))
		for _, p := range []*Pool{a, b} {
			wg.Go(func() {
				if _, err := p.Create(ctx, storage.VolumeSpec{Name: name, Size: 1 << 20}); err == nil {
					wins <- name
				} else if !errors.Is(err, storage.ErrExists) {
					t.Errorf("create: %v", err)
				}
			})
		}
	}
	wg.Wait()
	if len(wins) != 20 {
		t.Errorf("%d creates won for 20 names", len(wins))
	}
	if vols, err := b.List(ctx); err != nil || len(vols) != 20 {
		t.Errorf("host 2 sees %d volumes, %v", len(vols), err)
	}
	left, err := os.ReadDir(a.tmpDir())
	if err != nil || len(left) != 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
}

func TestLockedVolumeIsBusy(t *testing.T) {
	p := open(t, nil)
	ctx := context.Background()
	v, err := p.Create(ctx, storage.VolumeSpec{Name: "v", Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := p.lockVolume(ctx, "v", false)
	if err != nil {
		t.Fatal(err)
	}
	again, err := p.lockVolume(ctx, "v", false)
	if err != nil {
		t.Fatalf("two readers: %v", err)
	}
	again()
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := p.Delete(short, "v"); !errors.Is(err, storage.ErrBusy) {
		t.Errorf("delete of a volume that is being read: %v", err)
	}
	unlock()
	// What QEMU does to an image it opens.
	f, err := os.Open(v.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 100, Len: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Expand(ctx, "v", 2<<20); !errors.Is(err, storage.ErrBusy) {
		t.Errorf("expand of a disk in use: %v", err)
	}
}

func TestSparseCopyKeepsHoles(t *testing.T) {
	p := open(t, nil)
	src := filepath.Join(t.TempDir(), "big")
	f, err := os.Create(src)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("start"), 0)
	f.WriteAt(make([]byte, 1<<20), 100<<20) // zeros that are written, not a hole
	f.WriteAt([]byte("end"), 1<<30-3)
	f.Close()
	v, err := p.Create(context.Background(), storage.VolumeSpec{Name: "v", Source: &storage.Source{File: src, FileFormat: storage.Raw}})
	if err != nil {
		t.Fatal(err)
	}
	if v.Size != 1<<30 || v.Allocated > 1<<20 && !p.info.Capabilities.FastClone {
		t.Errorf("copied to %+v", v)
	}
	if got := (storagetest.Files{}).ReadAt(t, v, 3, 1<<30-3); string(got) != "end" {
		t.Errorf("read %q", got)
	}
}

func TestModeAndPreallocation(t *testing.T) {
	p := open(t, nil)
	v, err := p.Create(context.Background(), storage.VolumeSpec{Name: "v", Size: 8 << 20, Preallocate: true})
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(v.Path)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v", fi.Mode())
	}
	if v.Allocated < 8<<20 {
		t.Errorf("preallocated %d bytes of %d", v.Allocated, v.Size)
	}
	_, err = p.Create(context.Background(), storage.VolumeSpec{Name: "huge", Size: 1 << 55, Preallocate: true})
	if err == nil {
		t.Fatal("32 PiB were preallocated")
	}
	if left, _ := os.ReadDir(p.tmpDir()); len(left) != 0 {
		t.Errorf("left in tmp: %v", left)
	}
}

// qemu-img works as a user of its own, to whom disks are lent only while it runs.
func TestConverterGivesDisksBack(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	p, ctx := open(t, func(c *Config) { c.Tool.Users = program.NewUsers(1_900_000_000, 8, 23456) }), context.Background()
	image := filepath.Join(t.TempDir(), "image")
	if err := errors.Join(os.WriteFile(image, []byte(strings.Repeat("data", 1<<18)), 0o440), os.Chown(image, 0, 23456)); err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		name   string
		format storage.Format
		source storage.Source
	}{
		{"raw", storage.Raw, storage.Source{File: image, FileFormat: storage.Raw}},
		{"qcow2", storage.QCOW2, storage.Source{File: image, FileFormat: storage.Raw}},
		{"copied", storage.QCOW2, storage.Source{Volume: "raw"}},
		{"back", storage.Raw, storage.Source{Volume: "copied"}},
	} {
		size := int64(2 << 20 << (2 * i))
		v, err := p.Create(ctx, storage.VolumeSpec{Name: step.name, Size: size, Format: step.format, Source: &step.source})
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		// As libvirt may leave a disk that it is done with.
		if err := os.Chown(v.Path, 64055, 0); err != nil {
			t.Fatal(err)
		}
		if v, err = p.Expand(ctx, step.name, 2*size); err != nil || v.Size != 2*size {
			t.Errorf("%s: grown to %+v, %v", step.name, v, err)
		}
		if got := (storagetest.Files{}).ReadAt(t, v, 4, 1<<20-4); string(got) != "data" {
			t.Errorf("%s: read %q", step.name, got)
		}
		fi, err := os.Stat(v.Path)
		if err != nil {
			t.Fatal(err)
		}
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != 64055 || st.Gid != 0 || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: belongs to %d:%d, %v", step.name, st.Uid, st.Gid, fi.Mode())
		}
	}
}

// A pool whose file system is nearly full makes no new volume, and keeps those that it has.
func TestNewVolumesLeaveTheReserve(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	mount := t.TempDir()
	if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=20m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(mount, syscall.MNT_DETACH) })
	p := open(t, func(c *Config) { c.Dir, c.Reserve = filepath.Join(mount, "pool"), 1<<30 })
	v, err := p.Create(t.Context(), storage.VolumeSpec{Name: "v", Size: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(v.Path, make([]byte, 19<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Create(t.Context(), storage.VolumeSpec{Name: "w", Size: 1 << 20}); !errors.Is(err, storage.ErrNoSpace) {
		t.Errorf("a new volume beside a guest that wrote all but the reserve: %v", err)
	}
	if _, err := p.Get(t.Context(), "v"); err != nil {
		t.Errorf("the volume that was there: %v", err)
	}
	if err := p.Delete(t.Context(), "v"); err != nil {
		t.Error(err)
	}
	if _, err := p.Create(t.Context(), storage.VolumeSpec{Name: "w", Size: 1 << 20}); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// Disks that an earlier version left open to QEMU's group are closed when the pool is
// opened.
func TestOpenClosesDisks(t *testing.T) {
	p := open(t, nil)
	v, err := p.Create(context.Background(), storage.VolumeSpec{Name: "v", Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Snapshot(context.Background(), "v", "s"); err != nil {
		t.Fatal(err)
	}
	disks := []string{v.Path, filepath.Join(p.snapshotDir("v", "s"), filepath.Base(v.Path))}
	for _, disk := range disks {
		if err := os.Chmod(disk, 0o660); err != nil {
			t.Fatal(err)
		}
	}
	cfg := p.cfg
	p.Close()
	again, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for _, disk := range disks {
		if info, err := os.Stat(disk); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", disk, info.Mode(), err)
		}
	}
}
