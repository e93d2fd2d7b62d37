package network

import (
	"net/netip"
	"slices"
)

// Protection says which networks are closed to what users of the mesh choose: to their
// guests, and to the servers that they name and this host asks for images.
type Protection struct {
	// Protected returns the addresses of hosts. May be nil. It must not block.
	Protected func() []netip.Prefix
	// ProtectedNetworks are what the operator wants to close besides, and AllowedNetworks
	// the exceptions from all of these.
	ProtectedNetworks, AllowedNetworks []netip.Prefix
}

// neverForGuests are networks that mean the host itself or its neighbours: loopback, and
// link-local addresses, at which clouds serve the host's credentials (169.254.169.254).
var neverForGuests = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16")}

// Closed returns the networks that are closed now, without regard to AllowedNetworks.
func (p Protection) Closed() []netip.Prefix {
	closed := slices.Concat(neverForGuests, p.ProtectedNetworks)
	if p.Protected != nil {
		closed = append(closed, p.Protected()...)
	}
	return closed
}
