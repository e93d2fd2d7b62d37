package containerdisk

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// manifestOf is a manifest of n copies of a layer, padded by so many bytes.
func manifestOf(n int, layer string, padding int) string {
	config := `{"mediaType": "application/vnd.example.config", "size": 2, "digest": "sha256:` + strings.Repeat("0", 64) + `"}`
	return `{"schemaVersion": 2, "mediaType": "` + string(types.OCIManifestSchema1) + `", "config": ` + config +
		`, "annotations": {"padding": "` + strings.Repeat("x", padding) + `"}, "layers": [` +
		strings.TrimSuffix(strings.Repeat(layer+",", n), ",") + `]}`
}

// Whoever may name an image may name a registry of their own, which must not be able to
// fill the memory of the host.
func TestManifestsAreBounded(t *testing.T) {
	const layer = `{"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": 1, "digest": "sha256:1111111111111111111111111111111111111111111111111111111111111111"}`
	index := `{"schemaVersion": 2, "mediaType": "` + string(types.OCIImageIndex) + `", "manifests": [` +
		strings.TrimSuffix(strings.Repeat(layer+",", maxIndexed+1), ",") + `]}`
	for name, c := range map[string]struct {
		kind     types.MediaType
		manifest string
		want     error
	}{
		"many bytes":       {types.OCIManifestSchema1, manifestOf(1, layer, 80<<20), ErrTooLarge},
		"many tiny layers": {types.OCIManifestSchema1, manifestOf(1<<20, "{}", 0), ErrTooLarge},
		"many numbers":     {types.OCIManifestSchema1, manifestOf(2<<20-1000, "0", 0), ErrTooLarge},
		"many layers":      {types.OCIManifestSchema1, manifestOf(maxLayers+1, layer, 0), ErrTooLarge},
		"many images":      {types.OCIImageIndex, index, ErrTooLarge},
		// The most that is accepted: it fails because its layers are not there.
		"long, with all layers": {types.OCIManifestSchema1, manifestOf(maxLayers, layer, 3<<20), ErrImageNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			var packed bytes.Buffer
			z := gzip.NewWriter(&packed)
			io.WriteString(z, c.manifest)
			z.Close()
			f := newRegistry(t)
			f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/manifests/") {
					return false
				}
				w.Header().Set("Content-Type", string(c.kind))
				w.Header().Set("Content-Encoding", "gzip")
				w.Write(packed.Bytes())
				return true
			})
			cache := newCache(t, nil)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, _, err := cache.Pull(context.Background(), f.addr+"/bomb:v1", PullOptions{})
			runtime.ReadMemStats(&after)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 128<<20 {
				t.Errorf("the pull allocated %d MiB", used>>20)
			}
			assertNothingLeft(t, cache)
		})
	}
}

// A manifest that a registry keeps elsewhere is bounded too, and a blob that it keeps
// elsewhere is not.
func TestRedirectsKeepTheBounds(t *testing.T) {
	f := newRegistry(t)
	ref := f.push(t, "redirected:v1", layer(t, file{name: "disk/d.img", data: fullDisk(maxManifestBytes+1<<20, 1)}))
	elsewhere := newRegistry(t)
	elsewhere.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
		io.WriteString(w, manifestOf(1, "{}", maxManifestBytes))
		return true
	})
	var manifest bool
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case manifest && strings.Contains(r.URL.Path, "/manifests/"):
			http.Redirect(w, r, "http://"+elsewhere.addr+"/blobs/x", http.StatusTemporaryRedirect)
			return true
		case isBlob(r) && r.URL.RawQuery == "":
			http.Redirect(w, r, "http://"+f.addr+r.URL.Path+"?kept=1", http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	cache := newCache(t, func(c *Config) { c.InsecureRegistries = []string{f.addr, elsewhere.addr} })
	_, release := pull(t, cache, ref, PullOptions{})
	release()
	manifest = true
	if _, _, err := cache.Pull(context.Background(), ref, PullOptions{Policy: Always}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a long manifest behind a redirect: %v", err)
	}
}

// The names of deleted files are kept until the last layer is read.
func TestNamesOfDeletedFilesAreBounded(t *testing.T) {
	f := newRegistry(t)
	var files []file
	long := strings.Repeat("d/", 250_000)
	for i := range maxHiddenBytes/len(long) + 1 {
		files = append(files, file{name: fmt.Sprintf("%d/%s.wh.f", i, long)})
	}
	ref := f.push(t, "deletes:v1", gzipped(t, layer(t, files...)))
	cache := newCache(t, nil)
	if _, _, err := cache.Pull(context.Background(), ref, PullOptions{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want %v", err, ErrTooLarge)
	}
	assertNothingLeft(t, cache)
}
