package netplug

import "net/netip"

// DefaultGuestNetwork is the range of guests' addresses where nobody chooses another. Programs
// from before a mesh kept its range have no other.
const DefaultGuestNetwork = "10.64.0.0/14"

// Route is where a host sends packets to a network.
type Route struct {
	Destination netip.Prefix
	// Device is the interface; empty for routes that lead nowhere.
	Device string
}
