package ephemeral

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"virtmesh/storage"
	"virtmesh/storage/qemuimg"
)

func TestRemoveFreesAFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	mount := t.TempDir()
	if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=8m,nr_inodes=32"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(mount, syscall.MNT_DETACH) })
	d, ctx := open(t, func(c *Config) { c.Dir = filepath.Join(mount, "disks") }), context.Background()
	if _, err := d.Prepare(ctx, vm, standard(t)); err != nil {
		t.Fatal(err)
	}
	var err error
	for ballast := filepath.Join(mount, "x"); err == nil; ballast = filepath.Join(ballast, "x") {
		err = os.Mkdir(ballast, 0o755)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := d.Remove(ctx, vm.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Prepare(ctx, vm, standard(t)); err != nil {
		t.Errorf("nothing was freed: %v", err)
	}
	// Where there is no room for another name either.
	if err := removeInPlace(d.folder(vm.UID)); err != nil {
		t.Fatal(err)
	}
	if vms, err := d.List(); err != nil || len(vms) != 0 {
		t.Errorf("listed %v, %v", vms, err)
	}
}

// A disk that has its name is used as it is, so it must be whole when it gets it,
// also after a loss of power.
func TestADiskIsSyncedBeforeItGetsItsName(t *testing.T) {
	d := open(t, nil)
	folder := filepath.Join(d.cfg.Dir, vm.UID)
	named := func() (names []string) {
		entries, _ := os.ReadDir(folder)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	synced := map[string]bool{} // by the last part of the path
	seen := map[string]bool{}   // names that were there when their folder was synced
	d.sync = func(path string) error {
		if path == folder {
			for _, name := range named() {
				seen[name] = true
			}
			return nil
		}
		for _, name := range named() {
			if name == filepath.Base(path) {
				t.Errorf("%s had its name before it was synced", name)
			}
		}
		synced[filepath.Base(path)] = true
		return nil
	}
	if _, err := d.Prepare(context.Background(), vm, standard(t)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"root.qcow2", "scratch.img", "data.qcow2"} {
		if !synced[name] || !seen[name] {
			t.Errorf("%s: synced %v, its folder synced after it got its name %v", name, synced[name], seen[name])
		}
	}
	if !seen["cloudinit.iso"] || !synced[note] || !synced[filepath.Base(d.cfg.Dir)] {
		t.Errorf("synced %v, seen %v", synced, seen)
	}
	d.sync = func(string) error { return syscall.EIO }
	other := vm
	other.UID = "6f4a3c1e-0000-4000-8000-000000000002"
	if _, err := d.Prepare(context.Background(), other, standard(t)[1:2]); !errors.Is(err, syscall.EIO) {
		t.Errorf("a disk that could not be synced was given out: %v", err)
	}
}

func TestOriginsAreKeptWithTheirOverlays(t *testing.T) {
	d, disks := open(t, nil), standard(t)
	disks[0].Overlay.Origin = "sha256:1234"
	if got, err := d.Origins(vm.UID); err != nil || len(got) != 0 {
		t.Errorf("without disks: %v, %v", got, err)
	}
	if _, err := d.Prepare(context.Background(), vm, disks); err != nil {
		t.Fatal(err)
	}
	// The image that the reference names now is another one; the overlay is not.
	disks[0].Overlay.Origin = "sha256:5678"
	if _, err := d.Prepare(context.Background(), vm, disks); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Origins(vm.UID); err != nil || len(got) != 1 || got["root"] != "sha256:1234" {
		t.Errorf("origins %v, %v", got, err)
	}
	if _, err := d.Origins("../etc"); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("a UID that is a path: %v", err)
	}
}

// The user that QEMU runs as may rewrite the header of a disk. A disk whose header names
// another file than it was made on, or data elsewhere, is not given out.
func TestRewrittenHeadersAreRefused(t *testing.T) {
	overlay := func(backing string, format qemuimg.Format) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := qemuimg.CreateOverlay(path, backing, format, 16<<20); err != nil {
				t.Fatal(err)
			}
		}
	}
	external := func(t *testing.T, path string) {
		if err := qemuimg.Create(path, qemuimg.QCOW2, 4<<20); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte{1 << 2}, 79); err != nil { // the data is in another file
			t.Fatal(err)
		}
	}
	secret := image(t, 8<<20)
	for name, test := range map[string]struct {
		disk    int
		rewrite func(t *testing.T, path string)
		noted   bool
		want    error
	}{
		"another file":                 {0, overlay(secret, qemuimg.QCOW2), true, qemuimg.ErrUnsafe},
		"another file as raw":          {0, overlay(secret, qemuimg.Raw), true, qemuimg.ErrUnsafe},
		"another file, nothing noted":  {0, overlay(secret, qemuimg.QCOW2), false, qemuimg.ErrUnsafe},
		"the same file, nothing noted": {0, nil, false, nil},
		"no backing file":              {0, external, true, storage.ErrExists},
		"an empty disk above a file":   {2, overlay(secret, qemuimg.QCOW2), true, storage.ErrExists},
		"an empty disk without data":   {2, external, true, qemuimg.ErrUnsafe},
	} {
		t.Run(name, func(t *testing.T) {
			d, disks := open(t, nil), standard(t)
			made, err := d.Prepare(context.Background(), vm, disks)
			if err != nil {
				t.Fatal(err)
			}
			if test.rewrite != nil {
				if err := os.Remove(made[test.disk].Path); err != nil {
					t.Fatal(err)
				}
				test.rewrite(t, made[test.disk].Path)
			}
			if !test.noted {
				if err := os.Remove(filepath.Join(d.folder(vm.UID), "root"+belowSuffix)); err != nil {
					t.Fatal(err)
				}
			}
			if again, err := d.Prepare(context.Background(), vm, disks); !errors.Is(err, test.want) {
				t.Errorf("got %+v, %v; want %v", again, err, test.want)
			}
		})
	}
}
