package containerdisk

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestPullFindsDisk(t *testing.T) {
	f := newRegistry(t)
	disk := rawDisk(1<<20, 7)
	plain := layer(t, file{name: "disk/", kind: tar.TypeDir}, file{name: "disk/d.img", data: disk})
	etc := layer(t, file{name: "etc/passwd", data: []byte("x")})
	old := layer(t, file{name: "disk/old.img", data: rawDisk(4096, 1)})
	for name, c := range map[string]struct {
		layers [][]byte
		file   string
		want   []byte
	}{
		"plain":               {[][]byte{plain}, "", disk},
		"gzip":                {[][]byte{gzipped(t, plain)}, "", disk},
		"zstd":                {[][]byte{zstded(t, plain)}, "", disk},
		"below other layers":  {[][]byte{plain, etc}, "", disk},
		"dot slash":           {[][]byte{layer(t, file{name: "./disk/d.img", data: disk})}, "", disk},
		"upper layer wins":    {[][]byte{layer(t, file{name: "disk/d.img", data: rawDisk(512, 3)}), plain}, "", disk},
		"deleted in between":  {[][]byte{old, layer(t, file{name: "disk/.wh.old.img"}), plain}, "", disk},
		"folder deleted":      {[][]byte{old, layer(t, file{name: ".wh.disk"}), plain}, "", disk},
		"opaque folder":       {[][]byte{old, layer(t, file{name: "disk/.wh..wh..opq"}, file{name: "disk/d.img", data: disk})}, "", disk},
		"named":               {[][]byte{layer(t, file{name: "a/b.img", data: disk}, file{name: "disk/x", data: []byte("x")})}, "/a/b.img", disk},
		"named among several": {[][]byte{old, plain}, "/disk/d.img", disk},
		"ends in zeros":       {[][]byte{layer(t, file{name: "disk/z", data: append([]byte("boot"), make([]byte, 300_001)...)})}, "", append([]byte("boot"), make([]byte, 300_001)...)},
	} {
		t.Run(name, func(t *testing.T) {
			cache := newCache(t, nil)
			ref := f.push(t, "found/"+strings.ReplaceAll(name, " ", "-")+":v1", c.layers...)
			img, release := pull(t, cache, ref, PullOptions{File: c.file})
			defer release()
			got, err := os.ReadFile(img.Path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, c.want) {
				t.Errorf("%d bytes that differ from the %d pushed", len(got), len(c.want))
			}
			if img.Format != "raw" || img.VirtualSize != int64(len(c.want)) || !strings.HasPrefix(img.Digest, "sha256:") {
				t.Errorf("image is %+v", img)
			}
			if fi, _ := os.Stat(img.Path); fi.Mode().Perm() != 0o444 {
				t.Errorf("mode %v", fi.Mode())
			}
		})
	}
}

func TestPullRefuses(t *testing.T) {
	f := newRegistry(t)
	named := func(b []byte) [][]byte { return [][]byte{layer(t, file{name: "disk/d.img", data: b})} }
	for name, c := range map[string]struct {
		layers [][]byte
		file   string
		want   error
	}{
		"no disk":            {[][]byte{layer(t, file{name: "etc/passwd", data: []byte("x")})}, "", ErrNotAnImage},
		"no layers":          {nil, "", ErrNotAnImage},
		"two disks":          {[][]byte{layer(t, file{name: "disk/a", data: rawDisk(512, 1)}, file{name: "disk/b", data: rawDisk(512, 1)})}, "", ErrNotAnImage},
		"symlink":            {[][]byte{layer(t, file{name: "disk/d.img", kind: tar.TypeSymlink, link: "/etc/shadow"})}, "", ErrNotAnImage},
		"hard link":          {[][]byte{layer(t, file{name: "disk/d.img", kind: tar.TypeLink, link: "/etc/shadow"})}, "", ErrNotAnImage},
		"device":             {[][]byte{layer(t, file{name: "disk/d.img", kind: tar.TypeBlock})}, "", ErrNotAnImage},
		"traversal":          {[][]byte{layer(t, file{name: "../../disk/d.img", data: rawDisk(512, 1)})}, "", ErrNotAnImage},
		"deleted":            {[][]byte{layer(t, file{name: "disk/d.img", data: rawDisk(512, 1)}), layer(t, file{name: "disk/.wh.d.img"})}, "", ErrNotAnImage},
		"missing file":       {named(rawDisk(512, 1)), "/disk/other.img", ErrNotAnImage},
		"empty disk":         {named(nil), "", ErrNotAnImage},
		"an error page":      {named([]byte("<!DOCTYPE html>")), "", ErrNotAnImage},
		"backing file":       {named(qcow2(1<<20, func(b []byte) { b[15], b[19] = 200, 11; copy(b[200:], "/etc/shadow") })), "", ErrNotAnImage},
		"huge virtual disk":  {named(qcow2(1<<50, nil)), "", ErrTooLarge},
		"huge file":          {[][]byte{layer(t, file{name: "disk/d.img", data: make([]byte, 3<<20)})}, "", ErrTooLarge},
		"bomb":               {[][]byte{gzipped(t, layer(t, file{name: "zeros", data: make([]byte, 8<<20)}))}, "", ErrTooLarge},
		"bomb in zstd":       {[][]byte{zstded(t, layer(t, file{name: "zeros", data: make([]byte, 8<<20)}))}, "", ErrTooLarge},
		"not an archive":     {[][]byte{[]byte(strings.Repeat("this is not a tar file ", 100))}, "", ErrNotAnImage},
		"gzip of nothing":    {[][]byte{gzipped(t, []byte("nothing"))}, "", ErrNotAnImage},
		"archive cut short":  {[][]byte{layer(t, file{name: "disk/d.img", data: rawDisk(100_000, 1)})[:50_000]}, "", ErrNotAnImage},
		"broken gzip":        {[][]byte{append([]byte("\x1f\x8b"), bytes.Repeat([]byte{9}, 100)...)}, "", ErrNotAnImage},
		"broken zstd":        {[][]byte{append([]byte("\x28\xb5\x2f\xfd"), bytes.Repeat([]byte{255}, 100)...)}, "", ErrNotAnImage},
		"gzip cut short":     {[][]byte{gzipped(t, layer(t, file{name: "disk/d.img", data: fullDisk(100_000, 1)}))[:100]}, "", ErrNotAnImage},
		"sparse map too big": {[][]byte{gnuSparse(t, 1<<40)}, "", ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			cache := newCache(t, func(c *Config) { c.MaxImageBytes, c.MaxVirtualSize = 2<<20, 1<<40 })
			ref := f.push(t, "refused/"+strings.ReplaceAll(name, " ", "-")+":v1", c.layers...)
			_, _, err := cache.Pull(context.Background(), ref, PullOptions{File: c.file})
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if err != nil && !strings.Contains(err.Error(), ref) {
				t.Errorf("error does not name the image: %v", err)
			}
			assertNothingLeft(t, cache)
		})
	}
}

// gnuSparse is an archive of a file of the given size that has no data.
func gnuSparse(t *testing.T, size int64) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "disk"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(dir, "disk", "d.img")
	if err := os.WriteFile(p, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(p, size); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tar", "-C", dir, "--format=posix", "-S", "-c", "disk").Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPullAnyFile(t *testing.T) {
	f, cache := newRegistry(t), newCache(t, nil)
	kernel := []byte("\x1f\x8bMZ this is a kernel")
	ref := f.push(t, "kernel:v1", layer(t, file{name: "boot/vmlinuz", data: kernel}))
	img, release := pull(t, cache, ref, PullOptions{File: "/boot/vmlinuz", AnyFile: true})
	defer release()
	if got, err := os.ReadFile(img.Path); err != nil || !bytes.Equal(got, kernel) {
		t.Errorf("got %q, %v", got, err)
	}
	if img.Format != "" {
		t.Errorf("format %q", img.Format)
	}
	// The same file must not pass for a disk because it is there as a kernel.
	if _, _, err := cache.Pull(context.Background(), ref, PullOptions{File: "/boot/vmlinuz"}); !errors.Is(err, ErrNotAnImage) {
		t.Errorf("as a disk: %v", err)
	}
	if _, _, err := cache.Pull(context.Background(), ref, PullOptions{AnyFile: true}); err == nil {
		t.Error("any file without a name was accepted")
	}
}

func TestPolicies(t *testing.T) {
	f, cache, ctx := newRegistry(t), newCache(t, nil), context.Background()
	ref := f.addr + "/p:v1"
	if _, _, err := cache.Pull(ctx, ref, PullOptions{Policy: Never}); !errors.Is(err, ErrNotPresent) {
		t.Fatalf("never, absent: %v", err)
	}
	f.push(t, "p:v1", layer(t, file{name: "disk/d", data: rawDisk(1000, 1)}))
	first, release := pull(t, cache, ref, PullOptions{Policy: IfNotPresent})
	release()
	f.push(t, "p:v1", layer(t, file{name: "disk/d", data: rawDisk(2000, 1)}))
	for _, p := range []Policy{Never, IfNotPresent, ""} {
		before := f.all.Load()
		img, release := pull(t, cache, ref, PullOptions{Policy: p})
		release()
		if img != first {
			t.Errorf("policy %q gave %+v, not %+v", p, img, first)
		}
		if f.all.Load() != before {
			t.Errorf("policy %q asked the registry", p)
		}
	}
	second, release := pull(t, cache, ref, PullOptions{Policy: Always})
	release()
	if second.VirtualSize != 2000 {
		t.Errorf("always gave %+v", second)
	}
	blobs := f.blobs.Load()
	again, release := pull(t, cache, ref, PullOptions{Policy: Always})
	release()
	if again != second || f.blobs.Load() != blobs {
		t.Errorf("always downloaded what was there")
	}
	byDigest, release := pull(t, cache, f.addr+"/p@"+first.Digest, PullOptions{Policy: Never})
	release()
	if byDigest.Path != first.Path {
		t.Errorf("by digest: %+v", byDigest)
	}
	if _, _, err := cache.Pull(ctx, ref, PullOptions{Policy: "Sometimes"}); err == nil {
		t.Error("an unknown policy was accepted")
	}
	f.push(t, "p:latest", layer(t, file{name: "disk/d", data: rawDisk(3000, 1)}))
	_, release = pull(t, cache, f.addr+"/p", PullOptions{})
	release()
	f.push(t, "p:latest", layer(t, file{name: "disk/d", data: rawDisk(4000, 1)}))
	latest, release := pull(t, cache, f.addr+"/p", PullOptions{})
	release()
	if latest.VirtualSize != 4000 {
		t.Errorf("latest is not asked for again: %+v", latest)
	}
}

func TestProgress(t *testing.T) {
	f, cache := newRegistry(t), newCache(t, nil)
	ref := diskRef(t, f, 1, 5<<20)
	var last, total int64
	calls := 0
	_, release := pull(t, cache, ref, PullOptions{Progress: func(d, n int64) {
		if d < last || d > n {
			t.Errorf("progress %d of %d after %d", d, n, last)
		}
		last, total = d, n
		calls++
	}})
	release()
	if last != total || total < 5<<20 || calls < 3 {
		t.Errorf("progress ended at %d of %d after %d calls", last, total, calls)
	}
}

func TestCacheSurvivesRestartAndCrash(t *testing.T) {
	f := newRegistry(t)
	cfg := testConfig(t)
	open := func() *Cache {
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := open()
	ref, other := diskRef(t, f, 1, 1<<20), diskRef(t, f, 2, 1<<20)
	img, release := pull(t, c, ref, PullOptions{})
	release()
	broken, release := pull(t, c, other, PullOptions{})
	release()
	if _, err := New(cfg); err == nil {
		t.Error("two caches in one folder")
	}
	c.Close()
	if _, _, err := c.Pull(context.Background(), diskRef(t, f, 3, 100), PullOptions{}); !errors.Is(err, ErrClosed) {
		t.Errorf("pull after close: %v", err)
	}
	// What a crash could leave: an unfinished pull, and a file that lost its end.
	junk := filepath.Join(cfg.Dir, "tmp", "pull-123")
	if err := os.MkdirAll(junk, 0o755); err != nil {
		t.Fatal(err)
	}
	// Images are read-only, also to their owner where that is not root.
	if err := os.Chmod(broken.Path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(broken.Path, 10); err != nil {
		t.Fatal(err)
	}
	c = open()
	defer c.Close()
	if _, err := os.Stat(junk); !os.IsNotExist(err) {
		t.Error("an unfinished pull is still there")
	}
	got, release := pull(t, c, ref, PullOptions{Policy: Never})
	release()
	if got != img {
		t.Errorf("after a restart %+v, before %+v", got, img)
	}
	if _, _, err := c.Pull(context.Background(), other, PullOptions{Policy: Never}); !errors.Is(err, ErrNotPresent) {
		t.Errorf("a broken image is still there: %v", err)
	}
	if imgs := c.Images(); len(imgs) != 1 || imgs[0].Path != img.Path {
		t.Errorf("images: %+v", imgs)
	}
}

// An image that an earlier version let libvirt give away belongs to this process again
// after the next start, and nobody can write it.
func TestImagesAreTakenBack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	f := newRegistry(t)
	const group = 23456
	c := newCache(t, func(c *Config) { c.GID = group })
	img, release := pull(t, c, diskRef(t, f, 1, 1<<20), PullOptions{})
	release()
	if err := errors.Join(os.Chown(img.Path, 64055, 64055), os.Chmod(img.Path, 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := New(c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	info, err := os.Stat(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 0 || st.Gid != group || info.Mode().Perm() != 0o440 {
		t.Errorf("it belongs to %d:%d, mode %v", st.Uid, st.Gid, info.Mode())
	}
	if info, err := os.Stat(filepath.Join(c.cfg.Dir, "images")); err != nil || info.Mode().Perm() != 0o710 {
		t.Errorf("the folder of images: %v, %v", info.Mode(), err)
	}
}

// Several repositories have the same image. Downloads of it that end at the same time all
// succeed, and the cache keeps it once.
func TestOneImageOfManyRepositoriesAtOnce(t *testing.T) {
	const repositories = 8
	f := newRegistry(t)
	cache := newCache(t, nil)
	var arrived sync.WaitGroup
	arrived.Add(repositories)
	f.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			arrived.Done()
			arrived.Wait()
		}
		return false
	})
	var pulls sync.WaitGroup
	for i := range repositories {
		ref := f.push(t, fmt.Sprintf("same/r%d:v1", i), layer(t, file{name: "disk/d.img", data: fullDisk(4096, 1)}))
		pulls.Go(func() {
			_, release, err := cache.Pull(t.Context(), ref, PullOptions{})
			if err != nil {
				t.Errorf("%s: %v", ref, err)
				return
			}
			release()
		})
	}
	pulls.Wait()
	if images, err := os.ReadDir(filepath.Join(cache.cfg.Dir, "images")); err != nil || len(images) != 1 {
		t.Errorf("the cache keeps %d images: %v", len(images), err)
	}
}

// A folder that is in the place of an image and is none, such as after a sync that failed,
// keeps nobody from the image.
func TestStrayFolderIsReplaced(t *testing.T) {
	reg := newRegistry(t)
	ref := diskRef(t, reg, 1, 8192)
	first := newCache(t, nil)
	image, release := pull(t, first, ref, PullOptions{})
	key := filepath.Base(filepath.Dir(image.Path))
	release()
	second := newCache(t, nil)
	stray := filepath.Join(second.imageDir(key), "disk")
	if err := errors.Join(os.Mkdir(filepath.Dir(stray), 0o755), os.WriteFile(stray, []byte("half"), 0o600)); err != nil {
		t.Fatal(err)
	}
	image, release = pull(t, second, ref, PullOptions{})
	defer release()
	if got, err := os.ReadFile(image.Path); err != nil || len(got) != 8192 || image.Path != stray {
		t.Errorf("%s has %d bytes, %v", image.Path, len(got), err)
	}
}
