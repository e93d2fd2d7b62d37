package registry_test

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"virtmesh/cli/lab/registry"
)

func start(t *testing.T, dir string) *registry.Server {
	t.Helper()
	s, err := registry.Start(registry.Config{Dir: dir, Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

func push(t *testing.T, s *registry.Server, repo string, img v1.Image) v1.Hash {
	t.Helper()
	ref, err := name.ParseReference(s.Addr()+"/"+repo, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestImagesSurviveRestart(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	img, err := random.Image(100_000, 3)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := random.Index(1000, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	want := push(t, s, "lab/a:one", img)
	ref, _ := name.ParseReference(s.Addr()+"/lab/b:idx", name.Insecure)
	if err := remote.WriteIndex(ref, idx); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err != nil {
		t.Fatal(err)
	}
	s = start(t, dir)
	ref, _ = name.ParseReference(s.Addr()+"/lab/a:one", name.Insecure)
	got, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	if d, _ := got.Digest(); d != want {
		t.Errorf("digest %s after a restart, pushed %s", d, want)
	}
	layers, err := got.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		rc, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := v1.SHA256(rc); err != nil {
			t.Error(err)
		}
		rc.Close()
	}
	ref, _ = name.ParseReference(s.Addr()+"/lab/b:idx", name.Insecure)
	if _, err := remote.Index(ref); err != nil {
		t.Errorf("index lost: %v", err)
	}
}

func TestUploadOfWrongDigestLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	base := "http://" + s.Addr()
	resp, err := http.Post(base+"/v2/x/blobs/uploads/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	loc := resp.Header.Get("Location")
	req, _ := http.NewRequest(http.MethodPut, base+loc+"?digest=sha256:"+strings.Repeat("0", 64), bytes.NewReader([]byte("lies")))
	resp, err = http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode/100 == 2 {
		t.Errorf("status %s for a blob that is not what it is called", resp.Status)
	}
	for _, d := range []string{"uploads", "blobs/sha256"} {
		left, err := os.ReadDir(filepath.Join(dir, d))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if len(left) != 0 {
			t.Errorf("%s is left in %s", left, d)
		}
	}
	req, _ = http.NewRequest(http.MethodPatch, base+"/v2/x/blobs/uploads/NOSUCH", bytes.NewReader([]byte("x")))
	resp, err = http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("status %s for an upload that was not begun", resp.Status)
	}
}

func TestAddressInUse(t *testing.T) {
	s := start(t, t.TempDir())
	if _, err := registry.Start(registry.Config{Dir: t.TempDir(), Addr: s.Addr()}); err == nil {
		t.Fatal("two registries on one address")
	}
}
