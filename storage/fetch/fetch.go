// Package fetch reaches the servers that disk images come from. Users of the mesh name
// these servers, and the servers name others (in redirects, and as those that give out
// tokens), so both are hostile: they would have this host ask what they cannot reach
// themselves, and they choose what its error messages say.
//
// Transport judges the address of each connection, and Told cleans the text of errors.
// Whatever fetches images does it through both. The package knows neither registries nor
// how far a server is trusted: its callers do.
package fetch

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"
)

// Check says whether images may be fetched from an address: nil, or a *ClosedError. It is
// called for every connection, from any goroutine, and must not block.
type Check func(addr netip.Addr) error

// ClosedError says that images are not fetched from an address.
type ClosedError struct {
	Addr netip.Addr
	// Because says what the address is.
	Because string
}

// Error implements error.
func (e *ClosedError) Error() string {
	return fmt.Sprintf("images are not fetched from %s: it is %s", e.Addr, e.Because)
}

// Guard knows from which addresses images are not fetched: those of this host itself,
// link-local ones, at which services often trust whoever asks (such as those that tell a
// machine in a cloud its credentials), and the networks that it is given. Its zero value
// knows the first two.
type Guard struct {
	// Closed returns more networks; nil for none. It is called as Check is.
	Closed func() []netip.Prefix
	// Allowed are exceptions, but for this host itself.
	Allowed []netip.Prefix
}

var (
	// awsMetadata is the address of the metadata service of Amazon EC2 over IPv6.
	awsMetadata = netip.MustParseAddr("fd00:ec2::254")
	// nat64 is the well-known prefix of RFC 6052: an IPv4 address follows it.
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
)

// Check implements Check.
func (g Guard) Check(addr netip.Addr) error {
	addr = addr.Unmap().WithZone("")
	if nat64.Contains(addr) {
		b := addr.As16()
		addr = netip.AddrFrom4([4]byte(b[12:]))
	}
	own, err := isOwn(addr)
	switch {
	case err != nil:
		return fmt.Errorf("find out whether %s is this host: %w", addr, err)
	case own:
		return &ClosedError{addr, "this host itself"}
	case within(g.Allowed, addr):
		return nil
	case addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr == awsMetadata:
		return &ClosedError{addr, "a link-local address"}
	case g.Closed != nil && within(g.Closed(), addr):
		return &ClosedError{addr, "a host of the mesh or in a protected network"}
	}
	return nil
}

// isOwn reports whether what is sent to an address arrives at this machine.
func isOwn(addr netip.Addr) (bool, error) {
	if addr.IsLoopback() || addr.IsUnspecified() {
		return true, nil
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(list, func(a net.Addr) bool {
		prefix, err := netip.ParsePrefix(a.String())
		return err == nil && prefix.Addr().Unmap().WithZone("") == addr
	}), nil
}

func within(list []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// maxHeaderBytes bounds the header of an answer. Registries' have a few KiB.
const maxHeaderBytes = 64 << 10

// Transport returns a transport like base whose connections are judged by check. The
// address of each connection is judged and not the name, since what a name stands for may
// change between two looks. If base has a proxy for a request, that was the administrator's
// choice: it is not judged, and what it connects to is its own matter, but for a URL that
// has an address instead of a name.
func Transport(base *http.Transport, check Check) http.RoundTripper {
	direct, proxied := base.Clone(), base.Clone()
	direct.MaxResponseHeaderBytes, proxied.MaxResponseHeaderBytes = maxHeaderBytes, maxHeaderBytes
	direct.Proxy, direct.DialContext = nil, dialer(check)
	return &transport{direct: direct, proxied: proxied, check: check}
}

type transport struct {
	direct, proxied *http.Transport
	check           Check
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	proxy, err := t.proxyFor(req)
	switch {
	case err != nil:
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	case proxy != nil:
		return t.proxied.RoundTrip(req)
	}
	return t.direct.RoundTrip(req)
}

// proxyFor returns the proxy for a request, nil for none.
func (t *transport) proxyFor(req *http.Request) (*url.URL, error) {
	if t.proxied.Proxy == nil {
		return nil, nil
	}
	proxy, err := t.proxied.Proxy(req)
	if proxy == nil || err != nil {
		return nil, err
	}
	if addr, err := netip.ParseAddr(req.URL.Hostname()); err == nil {
		return proxy, t.check(addr)
	}
	return proxy, nil
}

// dialer returns a function that connects to addresses that check permits.
func dialer(check Check) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	d.Control = func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("connect to %q: %w", address, err)
		}
		return check(to.Addr())
	}
	return d.DialContext
}
