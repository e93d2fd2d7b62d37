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
	r := &registries{insecure: insecure, ways: w}
	parsed, err := r.parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	secret := fmt.Sprintf(`{"auths":{%q:{"username":"user","password":"sesame"}}}`, parsed.Context().RegistryStr())
	_, err = r.resolve(t.Context(), parsed, [][]byte{[]byte(secret)})
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
	w := ways{listed: all, own: all, other: all}
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

// A registry with TLS cannot lead a host to one without: neither by a redirect nor as the
// one that gives out tokens, which would get the credentials.
func TestRegistryDoesNotLeadElsewhere(t *testing.T) {
	var elsewhere atomic.Int64
	victim := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer victim.Close()
	for name, lead := range map[string]func(w http.ResponseWriter, r *http.Request){
		"redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, victim.URL, http.StatusFound) },
		"realm": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x"`, victim.URL))
			w.WriteHeader(http.StatusUnauthorized)
		},
	} {
		registry := httptest.NewTLSServer(http.HandlerFunc(lead))
		own := registry.Client().Transport.(*http.Transport)
		host := registry.Listener.Addr().String()
		w := newWays(nil, testConfig(t).StallTimeout)
		w.own = own
		err := pullThrough(t, w, host+"/disks/d:v1")
		if err == nil || elsewhere.Swap(0) != 0 {
			t.Errorf("%s: the host followed it to a server without TLS: %v", name, err)
		}
		registry.Close()
	}
}

// Addresses are judged when a connection is made, whatever the name was.
func TestGuardedDial(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost", "0.0.0.0", "::ffff:127.0.0.1"} {
		if c, err := guardedDial(isLocal)(t.Context(), "tcp", net.JoinHostPort(host, port)); !errors.Is(err, ErrRegistryUnavailable) {
			t.Errorf("dial %s: %v", host, err)
			if err == nil {
				c.Close()
			}
		}
	}
	c, err := guardedDial(isLinkLocal)(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("the registry that the reference names may be on this machine: %v", err)
	}
	c.Close()
	for address, want := range map[string]bool{
		"169.254.169.254": true, "fe80::1": true, "fd00:ec2::254": true, "224.0.0.1": true, "::": true, "0.0.0.0": true,
		"127.0.0.1": false, "::1": false, "10.0.0.1": false, "192.0.2.1": false, "fd00::1": false, "2001:db8::1": false,
	} {
		if got := isLinkLocal(netip.MustParseAddr(address)); got != want {
			t.Errorf("isLinkLocal(%s) = %v", address, got)
		}
	}
}
