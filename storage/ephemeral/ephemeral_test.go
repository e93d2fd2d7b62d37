package ephemeral

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"virtmesh/storage"
	"virtmesh/storage/qemuimg"
)

var vm = VM{Namespace: "default", Name: "vm1", UID: "6f4a3c1e-0000-4000-8000-000000000001"}

func open(t *testing.T, edit func(*Config)) *Disks {
	t.Helper()
	cfg := DefaultConfig(filepath.Join(t.TempDir(), "disks"))
	if edit != nil {
		edit(&cfg)
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func image(t *testing.T, size int64) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "image.qcow2")
	if err := qemuimg.Create(p, qemuimg.QCOW2, size); err != nil {
		t.Fatal(err)
	}
	return p
}

// standard is one disk of each kind.
func standard(t *testing.T) []Disk {
	return []Disk{
		{Name: "root", Overlay: &Overlay{Backing: image(t, 8<<20), BackingFormat: qemuimg.QCOW2, Size: 16 << 20}},
		{Name: "scratch", Empty: &Empty{Size: 4 << 20, Format: qemuimg.Raw}},
		{Name: "data", Empty: &Empty{Size: 4 << 20, Format: qemuimg.QCOW2}},
		{Name: "cloudinit", Content: []byte("seed")},
	}
}

func TestPrepareMakesDisks(t *testing.T) {
	d, want := open(t, nil), standard(t)
	got, err := d.Prepare(context.Background(), vm, want)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(d.cfg.Dir, vm.UID)
	for i, w := range []Prepared{
		{Name: "root", Path: dir + "/root.qcow2", Format: qemuimg.QCOW2, Size: 16 << 20,
			Backing: want[0].Overlay.Backing, BackingFormat: qemuimg.QCOW2},
		{Name: "scratch", Path: dir + "/scratch.img", Format: qemuimg.Raw, Size: 4 << 20},
		{Name: "data", Path: dir + "/data.qcow2", Format: qemuimg.QCOW2, Size: 4 << 20},
		{Name: "cloudinit", Path: dir + "/cloudinit.iso", Format: qemuimg.Raw, Size: 4096, ReadOnly: true},
	} {
		if got[i] != w {
			t.Errorf("got %+v\nwant %+v", got[i], w)
		}
		if fi, err := os.Stat(w.Path); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", w.Name, fi.Mode(), err)
		}
	}
	if b, err := os.ReadFile(got[3].Path); err != nil || !bytes.Equal(b[:4], []byte("seed")) || len(b) != 4096 {
		t.Errorf("content is %.20q, %d bytes, %v", b, len(b), err)
	}
	if vms, err := d.List(); err != nil || len(vms) != 1 || vms[0] != vm {
		t.Errorf("listed %v, %v", vms, err)
	}
}

func TestPrepareAgainKeepsWhatTheGuestWrote(t *testing.T) {
	d, disks, ctx := open(t, nil), standard(t), context.Background()
	first, err := d.Prepare(ctx, vm, disks)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(first[1].Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("guest"), 100)
	f.Close()
	before := inode(t, first[3].Path)
	// The image has moved on: the overlay must not.
	asked := disks[0].Overlay.Backing
	disks[0].Overlay = &Overlay{Backing: image(t, 8<<20), BackingFormat: qemuimg.QCOW2}
	d, err = New(d.cfg)
	if err != nil {
		t.Fatal(err)
	}
	second, err := d.Prepare(ctx, vm, disks)
	if err != nil {
		t.Fatal(err)
	}
	if second[0].Backing != asked || second[0].Size != 16<<20 {
		t.Errorf("the overlay is now %+v", second[0])
	}
	if b, err := os.ReadFile(first[1].Path); err != nil || string(b[100:105]) != "guest" {
		t.Errorf("what the guest wrote is gone: %v", err)
	}
	if inode(t, first[3].Path) != before {
		t.Error("a seed that did not change was replaced under the guest")
	}
	disks[3].Content = []byte("another seed")
	if _, err := d.Prepare(ctx, vm, disks); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(first[3].Path); err != nil || !strings.HasPrefix(string(b), "another seed\x00") {
		t.Errorf("the seed is %q, %v", b, err)
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Ino
}

func TestRemove(t *testing.T) {
	d, ctx := open(t, nil), context.Background()
	if _, err := d.Prepare(ctx, vm, standard(t)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Remove(ctx, vm.UID); err != nil {
			t.Fatal(err)
		}
	}
	if vms, err := d.List(); err != nil || len(vms) != 0 {
		t.Errorf("listed %v, %v", vms, err)
	}
	if left, _ := os.ReadDir(d.tmp()); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	for _, uid := range []string{"", "..", "../x", "a/b", ".tmp"} {
		if err := d.Remove(ctx, uid); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("remove %q: %v", uid, err)
		}
		if _, err := d.Prepare(ctx, VM{UID: uid}, nil); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("prepare %q: %v", uid, err)
		}
	}
}

func TestPrepareRefuses(t *testing.T) {
	d, ctx := open(t, nil), context.Background()
	for name, disks := range map[string][]Disk{
		"no kind":          {{Name: "a"}},
		"two kinds":        {{Name: "a", Empty: &Empty{Size: 1 << 20, Format: qemuimg.Raw}, Content: []byte("x")}},
		"bad name":         {{Name: "../a", Content: []byte("x")}},
		"two of a name":    {{Name: "a", Content: []byte("x")}, {Name: "a", Content: []byte("y")}},
		"relative backing": {{Name: "a", Overlay: &Overlay{Backing: "image", BackingFormat: qemuimg.Raw}}},
		"missing backing":  {{Name: "a", Overlay: &Overlay{Backing: "/no/image", BackingFormat: qemuimg.Raw}}},
		"no backing type":  {{Name: "a", Overlay: &Overlay{Backing: image(t, 1<<20)}}},
		"no size":          {{Name: "a", Empty: &Empty{Format: qemuimg.Raw}}},
		"format":           {{Name: "a", Empty: &Empty{Size: 1 << 20, Format: "vmdk"}}},
	} {
		_, err := d.Prepare(ctx, vm, disks)
		if err == nil || !strings.Contains(err.Error(), "default/vm1") {
			t.Errorf("%s: %v", name, err)
		}
		if name != "two of a name" {
			if left, _ := filepath.Glob(filepath.Join(d.folder(vm.UID), "a.*")); len(left) != 0 {
				t.Errorf("%s left %v", name, left)
			}
		}
		if err := d.Remove(ctx, vm.UID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Prepare(ctx, vm, []Disk{{Name: "a", Empty: &Empty{Size: 1 << 20, Format: qemuimg.QCOW2}}}); err != nil {
		t.Fatal(err)
	}
	_, err := d.Prepare(ctx, vm, []Disk{{Name: "a", Overlay: &Overlay{Backing: image(t, 1<<20), BackingFormat: qemuimg.QCOW2}}})
	if !errors.Is(err, storage.ErrExists) {
		t.Errorf("an empty disk passed for an overlay: %v", err)
	}
}

func TestAtOnce(t *testing.T) {
	d, disks, ctx := open(t, nil), standard(t), context.Background()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 5 {
				if _, err := d.Prepare(ctx, vm, disks); err != nil {
					t.Errorf("prepare: %v", err)
				}
				if i == 0 {
					if err := d.Remove(ctx, vm.UID); err != nil {
						t.Errorf("remove: %v", err)
					}
				}
				if _, err := d.List(); err != nil {
					t.Errorf("list: %v", err)
				}
			}
		})
	}
	wg.Wait()
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := d.Prepare(canceled, vm, disks); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	d := open(t, func(c *Config) { c.GID = 23456 })
	disks := standard(t)
	disks[0].Overlay.Origin = "sha256:1234"
	got, err := d.Prepare(context.Background(), vm, disks)
	if err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{originSuffix, belowSuffix} {
		if st := stat(t, filepath.Join(d.folder(vm.UID), "root"+suffix)); st.Uid != 0 || st.Mode&0o077 != 0 {
			t.Errorf("QEMU's user can rewrite what its disk was made on: %s belongs to %d, mode %o", suffix, st.Uid, st.Mode)
		}
	}
	for _, p := range got {
		st := stat(t, p.Path)
		if st.Uid != 0 || st.Mode&0o777 != 0o600 {
			t.Errorf("%s belongs to %d, mode %o", p.Name, st.Uid, st.Mode)
		}
	}
	dir := stat(t, d.folder(vm.UID))
	if dir.Uid != 0 || dir.Gid != 23456 || dir.Mode&0o777 != 0o710 {
		t.Errorf("the folder is %d:%d %o", dir.Uid, dir.Gid, dir.Mode)
	}
}

func stat(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t)
}

func TestConfig(t *testing.T) {
	good := DefaultConfig("/disks")
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for field, edit := range map[string]func(*Config){
		"Dir": func(c *Config) { c.Dir = "x" }, "Users.count": func(c *Config) { c.Users = UserRange{First: 1 << 20, Count: 1} }, "Log": func(c *Config) { c.Log = nil },
	} {
		c := good
		edit(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("bad %s: %v", field, err)
		}
	}
}

func BenchmarkPrepare(b *testing.B) {
	d, err := New(DefaultConfig(filepath.Join(b.TempDir(), "disks")))
	if err != nil {
		b.Fatal(err)
	}
	base := filepath.Join(b.TempDir(), "base")
	if err := qemuimg.Create(base, qemuimg.QCOW2, 8<<20); err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	for b.Loop() {
		_, err := d.Prepare(ctx, vm, []Disk{
			{Name: "root", Overlay: &Overlay{Backing: base, BackingFormat: qemuimg.QCOW2}},
			{Name: "seed", Content: make([]byte, 400_000)},
		})
		if err != nil {
			b.Fatal(err)
		}
		if err := d.Remove(ctx, vm.UID); err != nil {
			b.Fatal(err)
		}
	}
}
