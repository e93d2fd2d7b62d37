package containerdisk

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"virtmesh/storage/fetch"
)

// lan makes the names of a test's registries stand for a server on this machine, as if it
// were another one of the local network.
func lan(to string) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, to)
	}}
}

// pullThrough pulls an image as a cache does, through transports of the test's making.
func pullThrough(t *testing.T, w ways, ref string, insecure ...string) error {
	t.Helper()
	return pullThroughRegistries(t, &registries{insecure: insecure, ways: w}, ref)
}

func pullThroughRegistries(t *testing.T, r *registries, ref string) error {
	t.Helper()
	parsed, err := r.parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	secret := fmt.Sprintf(`{"auths":{%q:{"username":"user","password":"sesame"}}}`, parsed.Context().RegistryStr())
	a, err := newAsker(parsed, [][]byte{[]byte(secret)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.resolve(t.Context(), parsed, a.auth)
	return err
}

// Registries whose names and addresses look private get neither a request nor credentials
// without TLS, unless the operator listed them. Whoever is on the way can keep TLS from
// working.
func TestNothingWithoutTLS(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer server.Close()
	all := lan(server.Listener.Addr().String())
	w := ways{insecure: all, internal: all, guarded: all}
	for _, registry := range []string{"10.1.2.3", "10.1.2.3:5000", "192.168.1.1:5000", "172.16.0.1", "registry.local:5000", "registry.localhost:5000", "registry.example"} {
		err := pullThrough(t, w, registry+"/disks/d:v1")
		if !errors.Is(err, ErrRegistryUnavailable) || asked.Load() != 0 {
			t.Errorf("%s was asked %d times without TLS: %v", registry, asked.Swap(0), err)
		}
		if err != nil && strings.HasPrefix(registry, "10.") && !strings.Contains(err.Error(), "not listed as a registry without TLS") {
			t.Errorf("%s: the error does not say what to do: %v", registry, err)
		}
		if err := pullThrough(t, w, registry+"/disks/d:v1", registry); !errors.Is(err, ErrUnauthorized) || asked.Swap(0) == 0 {
			t.Errorf("%s is listed, and was not asked: %v", registry, err)
		}
	}
}

// A registry leads a host neither to one without TLS nor to an address that is closed: not
// by a redirect, and not as the one that gives out tokens, which would get the credentials.
func TestRegistryDoesNotLeadElsewhere(t *testing.T) {
	var elsewhere atomic.Int64
	count := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) })
	plain, private := httptest.NewServer(count), httptest.NewTLSServer(count)
	defer plain.Close()
	defer private.Close()
	for _, victim := range []*httptest.Server{plain, private} {
		for name, lead := range map[string]func(w http.ResponseWriter, r *http.Request){
			"redirect": func(w http.ResponseWriter, r *http.Request) {
				// By name: the library itself looks at addresses only.
				http.Redirect(w, r, strings.Replace(victim.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
			},
			"realm": func(w http.ResponseWriter, _ *http.Request) {
				realm := strings.Replace(victim.URL, "127.0.0.1", "localhost", 1)
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x"`, realm))
				w.WriteHeader(http.StatusUnauthorized)
			},
		} {
			registry := httptest.NewTLSServer(http.HandlerFunc(lead))
			host := registry.Listener.Addr().String()
			cfg := testConfig(t)
			cfg.Check, cfg.InternalRegistries = nil, []string{host}
			w := newRegistries(cfg).ways
			w.internal = registry.Client().Transport
			err := pullThroughRegistries(t, &registries{internal: cfg.InternalRegistries, ways: w}, host+"/disks/d:v1")
			if err == nil || elsewhere.Swap(0) != 0 {
				t.Errorf("%s: the host followed it to %s: %v", name, victim.URL, err)
			}
			if closed := new(fetch.ClosedError); victim == private && (!errors.As(err, &closed) || !errors.Is(err, ErrRegistryUnavailable)) {
				t.Errorf("%s to a closed address: %v", name, err)
			}
			// One that users chose leads to no registry that is listed either.
			listed := strings.TrimPrefix(strings.TrimPrefix(strings.Replace(victim.URL, "127.0.0.1", "localhost", 1), "http://"), "https://")
			w.internal, w.insecure = private.Client().Transport, private.Client().Transport
			followed := func(req *http.Request) bool { return strings.HasPrefix(req.URL.Host, "localhost") }
			w.guarded = refusing{registry.Client().Transport, followed}
			for _, r := range []*registries{{internal: []string{listed}, ways: w}, {insecure: []string{listed}, ways: w}} {
				if err := pullThroughRegistries(t, r, host+"/disks/d:v1"); err == nil || elsewhere.Swap(0) != 0 {
					t.Errorf("%s: the host followed it to %s, which is listed: %v", name, victim.URL, err)
				}
			}
			registry.Close()
		}
	}
}

// refusing is a guarded transport that refuses some requests.
type refusing struct {
	next   http.RoundTripper
	closed func(req *http.Request) bool
}

// RoundTrip implements http.RoundTripper.
func (r refusing) RoundTrip(req *http.Request) (*http.Response, error) {
	if r.closed(req) {
		return nil, &fetch.ClosedError{Because: "closed"}
	}
	return r.next.RoundTrip(req)
}

// What a reference names is judged too, unless the operator listed it.
func TestReferencesToClosedAddresses(t *testing.T) {
	f := newRegistry(t)
	ref := diskRef(t, f, 1, 1000)
	asked := f.all.Load()
	closed := func(netip.Addr) error { return &fetch.ClosedError{Because: "closed"} }
	for name, check := range map[string]fetch.Check{"this host": nil, "a protected network": closed} {
		cache := newCache(t, func(c *Config) { c.Check = check })
		_, _, err := cache.Pull(t.Context(), ref, PullOptions{})
		if !errors.Is(err, ErrRegistryUnavailable) || !strings.Contains(err.Error(), "images are not fetched from") || f.all.Load() != asked {
			t.Errorf("%s: %v, after %d requests", name, err, f.all.Load()-asked)
		}
		if err != nil && !strings.Contains(err.Error(), "images.internalRegistries") {
			t.Errorf("%s: the error does not say what to do: %v", name, err)
		}
	}
	cache := newCache(t, func(c *Config) { c.Check, c.InsecureRegistries = closed, []string{f.addr} })
	_, release := pull(t, cache, ref, PullOptions{})
	release()
}
