package dir

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"virtmesh/storage"
)

// full mounts a file system at dir that has no room for one more file once fill
// was called.
func full(t *testing.T, dir string) (fill func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m,nr_inodes=64"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return func() {
		t.Helper()
		ballast := filepath.Join(dir, "ballast")
		var err error
		for err == nil {
			err = os.MkdirAll(ballast, 0o755)
			ballast = filepath.Join(ballast, "x")
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}

func TestDeleteFreesAFullDisk(t *testing.T) {
	mount := filepath.Join(t.TempDir(), "mount")
	fill := full(t, mount)
	p, ctx := open(t, func(c *Config) { c.Dir = filepath.Join(mount, "pool") }), context.Background()
	if _, err := p.Create(ctx, storage.VolumeSpec{Name: "v", Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Snapshot(ctx, "v", "s"); err != nil {
		t.Fatal(err)
	}
	fill()
	if _, err := p.Create(ctx, storage.VolumeSpec{Name: "w", Size: 1 << 20}); !errors.Is(err, storage.ErrNoSpace) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if err := p.DeleteSnapshot(ctx, "v", "s"); err != nil {
		t.Error(err)
	}
	if err := p.Delete(ctx, "v"); err != nil {
		t.Error(err)
	}
	if _, err := p.Create(ctx, storage.VolumeSpec{Name: "w", Size: 1 << 20}); err != nil {
		t.Errorf("nothing was freed: %v", err)
	}
}

func TestTakingApartInPlace(t *testing.T) {
	p, ctx := open(t, nil), context.Background()
	v, err := p.Create(ctx, storage.VolumeSpec{Name: "v", Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	// As after a crash in the middle: it is no volume, and can be deleted again.
	if err := errors.Join(os.Remove(filepath.Join(p.volumeDir("v"), "volume.json")), os.Remove(v.Path)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Get(ctx, "v"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if err := removeInPlace(p.volumeDir("v"), "volume.json"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(p.volumeDir("v")); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}

func TestDeleteRefusesADiskThatQEMUHolds(t *testing.T) {
	for _, format := range []storage.Format{storage.Raw, storage.QCOW2} {
		p, ctx := open(t, func(c *Config) { c.DefaultFormat = format }), context.Background()
		v, err := p.Create(ctx, storage.VolumeSpec{Name: "v", Size: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(v.Path)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 100, Len: 1}); err != nil {
			t.Fatal(err)
		}
		if err := p.Delete(ctx, "v"); !errors.Is(err, storage.ErrBusy) {
			t.Errorf("%s: %v", format, err)
		}
		f.Close()
		if _, err := p.Get(ctx, "v"); err != nil {
			t.Errorf("%s: %v", format, err)
		}
		if err := p.Delete(ctx, "v"); err != nil {
			t.Errorf("%s, closed: %v", format, err)
		}
	}
}
