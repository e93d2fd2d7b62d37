package guestimage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"virtmesh/cli/lab/registry"
	"virtmesh/storage/containerdisk"
	"virtmesh/storage/importer"
)

func TestParseSite(t *testing.T) {
	targets := []byte("http://other/|stable|main\nhttp://a/debian/|bookworm|contrib\nhttp://a/debian/|bookworm|main\n" +
		"http://a/debian/|bookworm-updates|main\nhttp://b/sec/|bookworm-security|main\nhttp://c/|bookworm-backports|main\n")
	a, err := parseSite(targets, "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	want := "deb http://a/debian/ bookworm main\ndeb http://a/debian/ bookworm-updates main\ndeb http://b/sec/ bookworm-security main\n"
	if a.URI != "http://a/debian/" || a.Release != "bookworm" || a.Sources != want {
		t.Errorf("got %+v", a)
	}
	for _, codename := range []string{"", "trixie"} {
		if _, err := parseSite(targets, codename); err == nil {
			t.Errorf("an archive for %q was found", codename)
		}
	}
}

func TestParseKernelDepends(t *testing.T) {
	out := []byte("linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-9-cloud-amd64\n")
	if got, err := parseKernelDepends(out, "linux-image-cloud-amd64"); err != nil || got != "linux-image-6.1.0-9-cloud-amd64" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := parseKernelDepends([]byte("x\n  Depends: libc6\n"), "x"); err == nil {
		t.Error("a package without a kernel has one")
	}
}

func TestBootRecord(t *testing.T) {
	b, err := bootRecord([]byte("code"), []partition{{Type: 0x0e, Active: true, Start: 2048, Length: 100}, {Type: 0x83, Start: 5000, Length: 7}})
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != 512 || !bytes.HasPrefix(b, []byte("code")) || b[510] != 0x55 || b[511] != 0xaa ||
		b[446] != 0x80 || b[450] != 0x0e || binary.LittleEndian.Uint32(b[462+8:]) != 5000 {
		t.Errorf("boot record % x", b[440:])
	}
	if _, err := bootRecord(make([]byte, 447), nil); err == nil {
		t.Error("code over the partition table was accepted")
	}
}

func TestBuildIsSharedAndSurvivesACrash(t *testing.T) {
	dir := t.TempDir()
	if _, err := Build(context.Background(), "none", Options{Dir: dir}); !errors.Is(err, ErrUnknownImage) || !strings.Contains(err.Error(), "tiny") {
		t.Errorf("unknown image: %v", err)
	}
	stale := filepath.Join(dir, ".build-fake-1")
	if err := os.MkdirAll(stale, 0o755); err != nil {
		t.Fatal(err)
	}
	builds := 0 // by one builder at a time
	r := recipe{inputs: func() [][]byte { return [][]byte{[]byte("1")} },
		suffixes: []string{".kernel", ".disk"},
		build: func(_ context.Context, _ Options, work, stem string) error {
			builds++
			return errors.Join(os.WriteFile(stem+".disk", []byte("image"), 0o600), os.WriteFile(stem+".kernel", nil, 0o600))
		}}
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			p, err := build(context.Background(), "fake", r, Options{Dir: dir})
			if err != nil || filepath.Ext(p) != ".disk" {
				t.Errorf("got %q, %v", p, err)
			}
			if _, err := os.Stat(strings.TrimSuffix(p, ".disk") + ".kernel"); err != nil {
				t.Errorf("the image's last file is there, another is not: %v", err)
			}
		})
	}
	wg.Wait()
	if builds != 1 {
		t.Errorf("%d builds", builds)
	}
	if _, err := os.Stat(stale); !os.IsNotExist(err) {
		t.Error("an interrupted build is still there")
	}
	// Someone else builds: wait no longer than asked to.
	unlock, err := lockFile(context.Background(), filepath.Join(dir, ".fake.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := build(ctx, "fake", r, Options{Dir: dir, Refresh: true}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	dir, boom := t.TempDir(), errors.New("boom")
	r := recipe{inputs: func() [][]byte { return nil }, suffixes: []string{qcow2Suffix}, build: func(_ context.Context, _ Options, work, stem string) error {
		os.WriteFile(stem+qcow2Suffix, []byte("half"), 0o600)
		return boom
	}}
	if _, err := build(context.Background(), "fake", r, Options{Dir: dir}); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 { // the lock
		t.Errorf("left %v, %v", left, err)
	}
}

func TestPushedImageCanBePulled(t *testing.T) {
	reg, err := registry.Start(registry.Config{Dir: t.TempDir(), Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reg.Close(context.Background()) })
	cfg := containerdisk.DefaultConfig(t.TempDir())
	cfg.MinFreeBytes, cfg.InsecureRegistries = 0, []string{reg.Addr()}
	cache, err := containerdisk.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cache.Close() })
	for _, size := range []int{1, 511, 512, 513, 3_000_000} {
		p := filepath.Join(t.TempDir(), "disk.img")
		want := bytes.Repeat([]byte("d"), size)
		if err := os.WriteFile(p, want, 0o600); err != nil {
			t.Fatal(err)
		}
		ref := fmt.Sprintf("%s/disks/d%d:v1", reg.Addr(), size)
		digest, err := Push(context.Background(), p, ref, true)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Push(context.Background(), p, ref, true); err != nil || again != digest {
			t.Errorf("pushed again: %s and %s, %v", digest, again, err)
		}
		img, release, err := cache.Pull(context.Background(), ref, containerdisk.PullOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(img.Path); err != nil || !bytes.Equal(got, want) || img.Digest != digest {
			t.Errorf("%d bytes: pulled %+v, %v", size, img, err)
		}
		release()
	}
	if _, err := Push(context.Background(), t.TempDir(), reg.Addr()+"/x:y", true); err == nil {
		t.Error("a folder was pushed")
	}
	if _, err := Push(context.Background(), "/etc/hostname", "Not A Ref", true); err == nil {
		t.Error("a bad reference was accepted")
	}
}

func TestFetch(t *testing.T) {
	want := append([]byte("boot"), make([]byte, 100_000)...)
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.URL.Path != "/disk.img" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Write(want)
	}))
	defer srv.Close()
	o := Options{Dir: t.TempDir()}
	for range 2 {
		p, err := Fetch(context.Background(), srv.URL+"/disk.img", o)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(p); err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	}
	if asked != 1 {
		t.Errorf("downloaded %d times", asked)
	}
	if _, err := Fetch(context.Background(), srv.URL+"/none", o); !errors.Is(err, importer.ErrSource) {
		t.Errorf("missing: %v", err)
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, want, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Fetch(context.Background(), file, o); err == nil || !strings.Contains(err.Error(), "is no disk image") {
		t.Errorf("a file that is no disk: %v", err)
	}
	if err := os.Truncate(file, 512*200); err != nil {
		t.Fatal(err)
	}
	if p, err := Fetch(context.Background(), file, o); err != nil || p != file {
		t.Errorf("a file: %q, %v", p, err)
	}
	if _, err := Fetch(context.Background(), filepath.Join(t.TempDir(), "none"), o); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}
