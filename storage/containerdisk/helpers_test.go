package containerdisk

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// fakeRegistry is a real registry handler with a hook before each request.
type fakeRegistry struct {
	addr string
	// hook, if set, may answer a request itself and say so. It is not asked about the
	// configurations of images, which are blobs as well.
	hook    atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool]
	configs sync.Map     // digests, of images that were pushed
	blobs   atomic.Int64 // GETs of layers
	all     atomic.Int64
}

func newRegistry(t *testing.T) *fakeRegistry {
	t.Helper()
	reg := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	f := &fakeRegistry{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.all.Add(1)
		if _, config := f.configs.Load(path.Base(r.URL.Path)); config {
			reg.ServeHTTP(w, r)
			return
		}
		if h := f.hook.Load(); h != nil && (*h)(w, r) {
			return
		}
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			f.blobs.Add(1)
		}
		reg.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	f.addr = srv.Listener.Addr().String()
	return f
}

func (f *fakeRegistry) intercept(h func(w http.ResponseWriter, r *http.Request) bool) {
	f.hook.Store(&h)
}

// push stores layers, the lowest first, as an image and returns its reference.
func (f *fakeRegistry) push(t *testing.T, repo string, layers ...[]byte) string {
	t.Helper()
	img := empty.Image
	for _, l := range layers {
		var err error
		if img, err = mutate.AppendLayers(img, static.NewLayer(l, types.DockerLayer)); err != nil {
			t.Fatal(err)
		}
	}
	ref, err := name.ParseReference(f.addr + "/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	f.configs.Store(config.String(), true)
	return ref.Name()
}

// file is an entry of a layer.
type file struct {
	name string
	data []byte
	kind byte
	link string
}

func layer(t testing.TB, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: f.kind, Linkname: f.link, Mode: 0o644, Size: int64(len(f.data))}
		if f.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write(b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zstded(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// rawDisk is n bytes that begin like a disk and hold seed here and there.
func rawDisk(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 100_000 {
		b[i] = seed + 1
	}
	if n > 512 {
		b[510], b[511] = 0x55, 0xaa
	}
	return b
}

// qcow2Header is a whole, empty qcow2 image; edit may spoil it.
func qcow2(virtual uint64, edit func(b []byte)) []byte {
	b := make([]byte, 4*65536)
	copy(b, "QFI\xfb")
	be := binary.BigEndian
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 16)
	be.PutUint64(b[24:], virtual)
	be.PutUint32(b[36:], 1)
	be.PutUint64(b[40:], 3*65536)
	be.PutUint64(b[48:], 65536)
	be.PutUint32(b[56:], 1)
	be.PutUint32(b[96:], 4)
	be.PutUint32(b[100:], 104)
	if edit != nil {
		edit(b)
	}
	return b
}

func testConfig(t *testing.T) Config {
	cfg := DefaultConfig(filepath.Join(t.TempDir(), "cache"))
	cfg.MinFreeBytes = 0
	cfg.MaxImageBytes = 64 << 20
	cfg.StallTimeout = 10 * time.Second
	cfg.Check = anywhere // the registries of tests are on this machine
	return cfg
}

func newCache(t *testing.T, edit func(*Config)) *Cache {
	t.Helper()
	cfg := testConfig(t)
	if edit != nil {
		edit(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func pull(t *testing.T, c *Cache, ref string, o PullOptions) (Image, func()) {
	t.Helper()
	img, release, err := c.Pull(context.Background(), ref, o)
	if err != nil {
		t.Fatal(err)
	}
	return img, release
}

// empties says that a pull which failed left nothing behind.
func assertNothingLeft(t *testing.T, c *Cache) {
	t.Helper()
	for _, d := range []string{"tmp", "images"} {
		left, err := os.ReadDir(filepath.Join(c.cfg.Dir, d))
		if err != nil {
			t.Fatal(err)
		}
		if len(left) > 0 {
			t.Errorf("%s is left in %s", left, d)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.used != 0 || c.reserved != 0 || len(c.flights) != 0 {
		t.Errorf("used %d, reserved %d, flights %d", c.used, c.reserved, len(c.flights))
	}
}

func diskRef(t *testing.T, f *fakeRegistry, i int, size int) string {
	t.Helper()
	return f.push(t, fmt.Sprintf("disks/d%d:v1", i), layer(t, file{name: "disk/d.img", data: fullDisk(size, byte(i))}))
}

// fullDisk has no holes, so that it occupies what it is long.
func fullDisk(size int, seed byte) []byte { return bytes.Repeat([]byte{seed + 1}, size) }
