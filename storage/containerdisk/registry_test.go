package containerdisk

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

func isBlob(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:")
}

func TestRegistryFaults(t *testing.T) {
	block := make(chan struct{})
	t.Cleanup(func() { close(block) })
	hang := func(r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-block:
		}
	}
	for name, c := range map[string]struct {
		hook func(w http.ResponseWriter, r *http.Request) bool
		want error
	}{
		"hangs at once": {func(w http.ResponseWriter, r *http.Request) bool { hang(r); return true }, ErrRegistryTimeout},
		"hangs in a blob": {func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r) {
				return false
			}
			w.Write(make([]byte, 100_000))
			w.(http.Flusher).Flush()
			hang(r)
			return true
		}, ErrRegistryTimeout},
		"trickles": {func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r) {
				return false
			}
			for r.Context().Err() == nil {
				w.Write([]byte{0})
				w.(http.Flusher).Flush()
				time.Sleep(5 * time.Millisecond)
			}
			return true
		}, ErrRegistryTimeout},
		"sends another blob": {func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r) {
				return false
			}
			w.Write(layer(t, file{name: "disk/d.img", data: rawDisk(1<<20, 66)}))
			return true
		}, ErrCorrupt},
		"sends garbage": {func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r) {
				return false
			}
			w.Write([]byte(strings.Repeat("garbage", 1000)))
			return true
		}, ErrCorrupt},
		"hangs up in a blob": {func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r) {
				return false
			}
			w.Write(make([]byte, 1000))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, ErrRegistryUnavailable},
		"fails": {func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}, ErrRegistryUnavailable},
		"wants a password": {func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}, ErrUnauthorized},
		"forbids": {func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/v2/") {
				return false
			}
			w.WriteHeader(http.StatusForbidden)
			return true
		}, ErrUnauthorized},
		"has no blob": {func(w http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) {
				w.WriteHeader(http.StatusNotFound)
			}
			return isBlob(r)
		}, ErrImageNotFound},
		"sends a manifest of rubbish": {func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")
			fmt.Fprint(w, `{"layers": [{"size": -5}]}`)
			return true
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newRegistry(t)
			cache := newCache(t, func(c *Config) { c.StallTimeout = 3 * time.Second })
			ref := diskRef(t, f, 1, 3<<20)
			f.intercept(c.hook)
			_, _, err := cache.Pull(context.Background(), ref, PullOptions{})
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			assertNothingLeft(t, cache)
		})
	}
}

func TestRegistryOutOfReach(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	cache := newCache(t, nil)
	if _, _, err := cache.Pull(context.Background(), addr+"/a:b", PullOptions{}); !errors.Is(err, ErrRegistryUnavailable) {
		t.Errorf("no one listens: %v", err)
	}
	for _, ref := range []string{"", "UPPER/case", "a b", "http://x/y", "x@sha256:12", strings.Repeat("a", 300)} {
		if _, _, err := cache.Pull(context.Background(), ref, PullOptions{}); !errors.Is(err, ErrBadReference) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	f := newRegistry(t)
	if _, _, err := cache.Pull(context.Background(), f.addr+"/none:v1", PullOptions{}); !errors.Is(err, ErrImageNotFound) {
		t.Errorf("no such image: %v", err)
	}
}

func TestPullSecrets(t *testing.T) {
	f := newRegistry(t)
	ref := diskRef(t, f, 1, 1000)
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, ok := r.BasicAuth(); ok && u == "robot" && p == "se:cret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	auth := base64.StdEncoding.EncodeToString([]byte("robot:se:cret"))
	other := []byte(`{"auths":{"elsewhere.example":{"username":"a","password":"b"}}}`)
	good := fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, f.addr, auth)
	wrong := fmt.Appendf(nil, `{"auths":{%q:{"username":"robot","password":"no"}}}`, f.addr)
	exact := fmt.Appendf(nil, `{"auths":{%q:{"username":"x","password":"y"},%q:{"auth":%q}}}`, f.addr, f.addr+"/disks", auth)
	for name, c := range map[string]struct {
		secrets [][]byte
		want    error
	}{
		"none":           {nil, ErrUnauthorized},
		"other registry": {[][]byte{other}, ErrUnauthorized},
		"wrong":          {[][]byte{wrong}, ErrUnauthorized},
		"second secret":  {[][]byte{other, good}, nil},
		"longest match":  {[][]byte{exact}, nil},
		"not json":       {[][]byte{[]byte("hunter2")}, ErrUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			_, release, err := newCache(t, nil).Pull(context.Background(), ref, PullOptions{PullSecrets: c.secrets})
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a secret: %v", err)
			}
			if err == nil {
				release()
			}
		})
	}
}

func TestSecretMatching(t *testing.T) {
	hub, err := name.NewRepository("library/debian")
	if err != nil {
		t.Fatal(err)
	}
	quay, err := name.NewRepository("quay.io/team/disks")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key  string
		repo name.Repository
		want bool
	}{
		{"https://index.docker.io/v1/", hub, true}, {"docker.io", hub, true}, {"quay.io", hub, false},
		{"quay.io", quay, true}, {"https://quay.io", quay, true}, {"quay.io/team", quay, true},
		{"quay.io/tea", quay, false}, {"quay.io/team/disks", quay, true}, {"quay.io.evil.example", quay, false},
	} {
		if got := coversRepository(c.key, c.repo); got != c.want {
			t.Errorf("%q for %s: %v", c.key, c.repo, got)
		}
	}
}

func TestOverlappingPullsShareADownload(t *testing.T) {
	f, cache := newRegistry(t), newCache(t, nil)
	ref := diskRef(t, f, 1, 4<<20)
	gate := make(chan struct{})
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if isBlob(r) {
			<-gate
		}
		return false
	})
	const n = 20
	var wg sync.WaitGroup
	releases := make([]func(), n)
	for i := range n {
		wg.Go(func() {
			_, release, err := cache.Pull(context.Background(), ref, PullOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			releases[i] = release
		})
	}
	// One more comes and goes; the others must not notice.
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan error)
	go func() {
		_, _, err := cache.Pull(ctx, ref, PullOptions{})
		gone <- err
	}()
	waitFor(t, func() bool { return waiters(cache) == n+1 })
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("canceled pull: %v", err)
	}
	close(gate)
	wg.Wait()
	if got := f.blobs.Load(); got != 1 {
		t.Errorf("%d downloads", got)
	}
	if got := holders(cache); got != n {
		t.Errorf("%d holders", got)
	}
	for _, r := range releases {
		r()
		r()
	}
	if got := holders(cache); got != 0 {
		t.Errorf("%d holders after all let go", got)
	}
}

func TestLastWaiterEndsDownload(t *testing.T) {
	f, cache := newRegistry(t), newCache(t, nil)
	ref := diskRef(t, f, 1, 4<<20)
	begun, ended := make(chan struct{}), make(chan struct{})
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r) {
			return false
		}
		w.Write([]byte("x"))
		w.(http.Flusher).Flush()
		close(begun)
		<-r.Context().Done()
		close(ended)
		return true
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, _, err := cache.Pull(ctx, ref, PullOptions{}); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
	waitFor(t, func() bool { return waiters(cache) == 2 })
	<-begun
	cancel()
	wg.Wait()
	<-ended
	cache.wg.Wait()
	assertNothingLeft(t, cache)
	f.intercept(func(http.ResponseWriter, *http.Request) bool { return false })
	_, release := pull(t, cache, ref, PullOptions{})
	release()
}

func TestEviction(t *testing.T) {
	f := newRegistry(t)
	cache := newCache(t, func(c *Config) { c.MaxBytes = 3<<20 + 200_000 })
	var imgs []Image
	var releases []func()
	for i := range 3 {
		img, release := pull(t, cache, diskRef(t, f, i, 1<<20), PullOptions{})
		imgs, releases = append(imgs, img), append(releases, release)
	}
	if _, _, err := cache.Pull(context.Background(), diskRef(t, f, 3, 1<<20), PullOptions{}); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("all images in use: %v", err)
	}
	releases[1]()
	releases[0]()
	_, release := pull(t, cache, diskRef(t, f, 4, 1<<20), PullOptions{})
	defer release()
	for i, want := range []bool{true, false, true} {
		if _, err := os.Stat(imgs[i].Path); (err == nil) != want {
			t.Errorf("image %d: %v", i, err)
		}
	}
	if used := cache.Used(); used > 3<<20+200_000 {
		t.Errorf("the cache holds %d bytes", used)
	}
	if _, _, err := cache.Pull(context.Background(), diskRef(t, f, 5, 4<<20), PullOptions{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an image larger than the cache: %v", err)
	}
	if hold, err := cache.Hold(imgs[0].Path); err != nil {
		t.Error(err)
	} else {
		defer hold()
	}
	if _, err := cache.Hold(imgs[1].Path); !errors.Is(err, ErrNotPresent) {
		t.Errorf("hold of an evicted image: %v", err)
	}
	if _, _, err := cache.Pull(context.Background(), diskRef(t, f, 6, 1<<20), PullOptions{}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("a held image made room: %v", err)
	}
}

func TestDiskFull(t *testing.T) {
	f := newRegistry(t)
	cache := newCache(t, func(c *Config) { c.MinFreeBytes = 1 << 60 })
	_, _, err := cache.Pull(context.Background(), diskRef(t, f, 1, 1<<20), PullOptions{})
	if !errors.Is(err, ErrNoSpace) {
		t.Errorf("got %v", err)
	}
	assertNothingLeft(t, cache)
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the condition did not come")
		}
	}
}

func waiters(c *Cache) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, f := range c.flights {
		n += f.waiters
	}
	return n
}

func holders(c *Cache) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, e := range c.entries {
		n += e.holders
	}
	return n
}
