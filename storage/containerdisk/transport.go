package containerdisk

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"virtmesh/storage/stall"
)

// ways are the transports for the hosts that a pull may talk to.
type ways struct {
	// listed is for registries of InsecureRegistries: it verifies no certificate.
	listed http.RoundTripper
	// own is for the registry that the reference names. It reaches no link-local address.
	own http.RoundTripper
	// other is for hosts that the registry names: in redirects, and as the one that gives
	// out tokens. It does not reach the machine itself either.
	other http.RoundTripper
}

// newWays makes transports like base; nil is the library's default.
func newWays(base http.RoundTripper, stallTimeout time.Duration) ways {
	if base == nil {
		base = remote.DefaultTransport
	}
	bound := func(refuse func(netip.Addr) bool, verify bool) http.RoundTripper {
		rt := base
		if t, ok := base.(*http.Transport); ok {
			t = t.Clone()
			if !verify {
				t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // for registries the operator listed
			}
			if refuse != nil {
				t.DialContext = guardedDial(refuse)
			}
			rt = t
		}
		return manifestBounds{next: stall.Transport(rt, stallTimeout)}
	}
	return ways{listed: bound(nil, false), own: bound(isLinkLocal, true), other: bound(isLocal, true)}
}

// isLinkLocal is about addresses at which no registry is, but often services that trust
// whoever asks, such as those that tell a machine in a cloud its credentials.
func isLinkLocal(a netip.Addr) bool {
	return a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() || a == awsMetadata
}

// awsMetadata is the address of the metadata service of Amazon EC2 over IPv6.
var awsMetadata = netip.MustParseAddr("fd00:ec2::254")

func isLocal(a netip.Addr) bool { return a.IsLoopback() || isLinkLocal(a) }

// guardedDial returns a dialer that refuses some addresses. It judges the address of each
// connection and not the name: what a name stands for may change between two looks. A proxy
// that the environment names is a host like any other to it, and what a proxy does it does
// not see.
func guardedDial(refuse func(netip.Addr) bool) func(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	dialer.Control = func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("connect to %q: %w", address, err)
		}
		if refuse(to.Addr().Unmap().WithZone("")) {
			return fmt.Errorf("%w: images are not fetched from %s", ErrRegistryUnavailable, to.Addr())
		}
		return nil
	}
	return dialer.DialContext
}

// guardedTransport sends the requests of a pull. Nothing goes over the network without
// TLS but to the registries that the operator listed: the library takes plain HTTP for all
// names and addresses that look private, and then whoever keeps TLS from working on the way
// gets the credentials and chooses the image.
type guardedTransport struct {
	ways
	insecure []string
	registry string // of the reference, host[:port]
}

// transportFor returns the transport for a pull from a registry.
func (r *registries) transportFor(registry string) http.RoundTripper {
	return &guardedTransport{ways: r.ways, insecure: r.insecure, registry: registry}
}

// RoundTrip implements http.RoundTripper.
func (t *guardedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Host
	switch {
	case slices.Contains(t.insecure, host):
		return t.listed.RoundTrip(req)
	case req.URL.Scheme != "https" && (host != t.registry || !isLoopbackHost(req.URL.Hostname())):
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, fmt.Errorf("%w: %s is not listed as a registry without TLS", ErrRegistryUnavailable, host)
	case host == t.registry:
		return t.own.RoundTrip(req)
	}
	return t.other.RoundTrip(req)
}

// isLoopbackHost says whether what is sent to a host never leaves this machine. Names count
// as little as what they resolve to, but for the one that RFC 6761 reserves.
func isLoopbackHost(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.Unmap().IsLoopback()
}
