package containerdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// privateRegistry gives its images to those who know a password, may be off, and may give
// them to all.
type privateRegistry struct {
	*fakeRegistry
	password  atomic.Value
	off, open atomic.Bool
}

func newPrivateRegistry(t *testing.T) *privateRegistry {
	t.Helper()
	f := &privateRegistry{fakeRegistry: newRegistry(t)}
	f.password.Store("sesame")
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		_, password, _ := r.BasicAuth()
		switch {
		case f.off.Load():
			w.WriteHeader(http.StatusBadGateway)
		case f.open.Load() || r.Method != http.MethodGet || password == f.password.Load():
			return false
		default:
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
		return true
	})
	return f
}

// pushPrivate puts a disk into the registry as long as it is open for that.
func (f *privateRegistry) pushPrivate(t *testing.T) string {
	t.Helper()
	f.open.Store(true)
	defer f.open.Store(false)
	return diskRef(t, f.fakeRegistry, 1, 1<<20)
}

func (f *privateRegistry) secret(password string) [][]byte {
	return [][]byte{fmt.Appendf(nil, `{"auths":{%q:{"username":"robot","password":%q}}}`, f.addr, password)}
}

// tryPull pulls and lets go.
func tryPull(c *Cache, ref string, policy Policy, secrets [][]byte) error {
	_, release, err := c.Pull(context.Background(), ref, PullOptions{Policy: policy, PullSecrets: secrets})
	if err == nil {
		release()
	}
	return err
}

func TestPrivateImagesNeedCredentials(t *testing.T) {
	f, cache := newPrivateRegistry(t), newCache(t, nil)
	ref := f.pushPrivate(t)
	img, release := pull(t, cache, ref, PullOptions{PullSecrets: f.secret("sesame")})
	defer release()
	downloads := f.blobs.Load()
	elsewhere := newRegistry(t)
	for name, c := range map[string]struct {
		ref     string
		policy  Policy
		secrets [][]byte
		want    error
	}{
		"the same":                        {ref, IfNotPresent, f.secret("sesame"), nil},
		"the same, always":                {ref, Always, f.secret("sesame"), nil},
		"the same, never":                 {ref, Never, f.secret("sesame"), nil},
		"none":                            {ref, IfNotPresent, nil, ErrUnauthorized},
		"none, never":                     {ref, Never, nil, ErrUnauthorized},
		"none, always":                    {ref, Always, nil, ErrUnauthorized},
		"wrong":                           {ref, IfNotPresent, f.secret("no"), ErrUnauthorized},
		"none, by digest":                 {f.addr + "/disks/d1@" + img.Digest, IfNotPresent, nil, ErrUnauthorized},
		"its digest elsewhere":            {elsewhere.addr + "/own@" + img.Digest, Never, nil, ErrNotPresent},
		"its digest elsewhere, if absent": {elsewhere.addr + "/own@" + img.Digest, IfNotPresent, nil, ErrImageNotFound},
	} {
		if err := tryPull(cache, c.ref, c.policy, c.secrets); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	if n := f.blobs.Load(); n != downloads {
		t.Errorf("%d downloads of what is there", n-downloads)
	}
	raw, err := os.ReadFile(cache.accessPath(imageKey(img.Digest, "", false)))
	if err != nil || strings.Contains(string(raw), "sesame") || strings.Contains(string(raw), "robot") {
		t.Errorf("the cache remembers a secret: %s, %v", raw, err)
	}
}

// Who can show the manifest of an image, but not the image, does not get it from the cache.
func TestManifestAloneGivesNothing(t *testing.T) {
	f, cache := newPrivateRegistry(t), newCache(t, nil)
	ref := f.pushPrivate(t)
	img, release := pull(t, cache, ref, PullOptions{PullSecrets: f.secret("sesame")})
	defer release()
	f.open.Store(true)
	parsed, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	private, err := remote.Image(parsed)
	if err != nil {
		t.Fatal(err)
	}
	whole := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var layers atomic.Bool // whether it gives out layers
	config, err := private.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isBlob(r) && !strings.Contains(r.URL.Path, config.String()) && !layers.Load() {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		whole.ServeHTTP(w, r)
	}))
	defer thief.Close()
	stolen := thief.Listener.Addr().String() + "/stolen:v1"
	to, err := name.ParseReference(stolen)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to, private); err != nil {
		t.Fatal(err)
	}
	f.open.Store(false)
	for _, policy := range []Policy{Always, IfNotPresent, Never} {
		if err := tryPull(cache, stolen, policy, nil); err == nil {
			t.Errorf("%s: the cache gave what the registry does not have", policy)
		}
	}
	// A registry that has all of it makes it public, and costs no second place.
	layers.Store(true)
	same, release := pull(t, cache, stolen, PullOptions{})
	release()
	if same.Path != img.Path {
		t.Errorf("%s and %s are of one digest", same.Path, img.Path)
	}
	if err := tryPull(cache, ref, IfNotPresent, nil); err != nil {
		t.Errorf("a public image: %v", err)
	}
}

// While a registry is off, its private images are for those whose credentials it accepted
// before, also after a restart.
func TestRegistryOffAndPrivateImages(t *testing.T) {
	f := newPrivateRegistry(t)
	cfg := testConfig(t)
	open := func() *Cache {
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	cache := open()
	ref := f.pushPrivate(t)
	good, old := f.secret("sesame"), f.secret("old")
	f.password.Store("old")
	if err := tryPull(cache, ref, "", old); err != nil {
		t.Fatal(err)
	}
	f.password.Store("sesame")
	if err := tryPull(cache, ref, "", good); err != nil {
		t.Fatal(err)
	}
	if err := tryPull(cache, ref, "", old); !errors.Is(err, ErrUnauthorized) {
		t.Fatalf("with a password that was changed: %v", err)
	}
	f.off.Store(true)
	cache.Close()
	cache = open()
	defer func() { cache.Close() }()
	for name, c := range map[string]struct {
		secrets [][]byte
		want    error
	}{"accepted before": {good, nil}, "refused since": {old, ErrRegistryUnavailable}, "none": {nil, ErrRegistryUnavailable}, "never shown": {f.secret("x"), ErrRegistryUnavailable}} {
		for _, policy := range []Policy{IfNotPresent, Never} {
			if err := tryPull(cache, ref, policy, c.secrets); !errors.Is(err, c.want) {
				t.Errorf("%s, %s: got %v, want %v", name, policy, err, c.want)
			}
		}
	}
	// It is public now; after the first answer without credentials nobody asks any more.
	f.off.Store(false)
	f.open.Store(true)
	if err := tryPull(cache, ref, IfNotPresent, nil); err != nil {
		t.Error(err)
	}
	f.off.Store(true)
	if err := tryPull(cache, ref, IfNotPresent, nil); err != nil {
		t.Errorf("a public image, while the registry is off: %v", err)
	}
}

// Of an image that an earlier version pulled, nobody knows whether it is public until its
// registry was asked once.
func TestImagesOfAnEarlierVersion(t *testing.T) {
	f := newPrivateRegistry(t)
	cfg := testConfig(t)
	cache, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ref := f.pushPrivate(t)
	img, release := pull(t, cache, ref, PullOptions{PullSecrets: f.secret("sesame")})
	release()
	cache.Close()
	if err := os.Remove(cache.accessPath(imageKey(img.Digest, "", false))); err != nil {
		t.Fatal(err)
	}
	if cache, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	downloads := f.blobs.Load()
	if err := tryPull(cache, ref, "", nil); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("without credentials: %v", err)
	}
	if err := tryPull(cache, ref, "", f.secret("sesame")); err != nil || f.blobs.Load() != downloads {
		t.Errorf("with credentials: %v, %d downloads", err, f.blobs.Load()-downloads)
	}
}

// Neither repositories nor secrets that somebody makes up fill the cache's memory.
func TestAccessIsBounded(t *testing.T) {
	a := newAccess()
	for i := range 100 {
		repository := fmt.Sprint("r", i)
		a.cover(repository)
		for j := range 100 {
			a.note(repository, fmt.Sprint("p", j))
		}
		if proofs := a.Repositories[repository]; len(proofs) != maxProofs || proofs[maxProofs-1] != "p99" {
			t.Fatalf("the proofs of %s are %v", repository, proofs)
		}
	}
	if n := len(a.Repositories); n != maxRepositories {
		t.Errorf("%d repositories", n)
	}
}
