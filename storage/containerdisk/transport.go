package containerdisk

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"virtmesh/storage/fetch"
	"virtmesh/storage/stall"
)

// ways are the transports for the hosts that a pull may talk to.
type ways struct {
	// insecure is for registries of InsecureRegistries: it verifies no certificate.
	insecure http.RoundTripper
	// internal is for registries of InternalRegistries. Like insecure it reaches all
	// addresses: the operator has chosen the registry.
	internal http.RoundTripper
	// guarded is for all others: those that a reference names, and those that a registry
	// names in redirects and as the one that gives out tokens.
	guarded http.RoundTripper
}

func newWays(check fetch.Check, stallTimeout time.Duration) ways {
	base := remote.DefaultTransport.(*http.Transport)
	unverified := base.Clone()
	unverified.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // for registries the operator listed
	bound := func(t *http.Transport, check fetch.Check) http.RoundTripper {
		return manifestBounds{next: stall.Transport(fetch.Transport(t, check), stallTimeout)}
	}
	return ways{insecure: bound(unverified, anywhere), internal: bound(base, anywhere), guarded: bound(base, check)}
}

// anywhere is the Check of registries that the operator listed.
func anywhere(netip.Addr) error { return nil }

// guardedTransport sends the requests of a pull. Nothing goes over the network without
// TLS but to the registries that the operator listed: the library takes plain HTTP for all
// names and addresses that look private, and then whoever keeps TLS from working on the way
// gets the credentials and chooses the image.
type guardedTransport struct {
	*registries
	registry string // of the reference, host[:port]
	// listed says that the operator listed the registry. One that users chose does not lead
	// to those that are listed, with a path of its own choice.
	listed bool
}

// transportFor returns the transport for a pull from a registry.
func (r *registries) transportFor(registry string) http.RoundTripper {
	listed := slices.Contains(r.insecure, registry) || slices.Contains(r.internal, registry)
	return &guardedTransport{registries: r, registry: registry, listed: listed}
}

// RoundTrip implements http.RoundTripper.
func (t *guardedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Host
	switch {
	case t.listed && slices.Contains(t.insecure, host):
		return t.ways.insecure.RoundTrip(req)
	case req.URL.Scheme != "https" && (host != t.registry || !isLoopbackHost(req.URL.Hostname())):
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, fmt.Errorf("%w: %s is not listed as a registry without TLS", ErrRegistryUnavailable, host)
	case t.listed && slices.Contains(t.internal, host):
		return t.ways.internal.RoundTrip(req)
	}
	return t.ways.guarded.RoundTrip(req)
}

// isLoopbackHost says whether what is sent to a host never leaves this machine. Names count
// as little as what they resolve to, but for the one that RFC 6761 reserves.
func isLoopbackHost(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.Unmap().IsLoopback()
}
