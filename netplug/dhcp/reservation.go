package dhcp

import (
	"net"
	"net/netip"
)

// Reservation assigns an address to a network card.
type Reservation struct {
	MAC      net.HardwareAddr
	Address  netip.Addr
	Hostname string
	// Search are the domains that this client searches before those of the pool.
	Search  []string
	Options Options
}

// Options are announced to a single client in addition to its lease.
type Options struct {
	// BootFile and TFTPServer are for network boot.
	BootFile   string
	TFTPServer string
	// NTPServers are time servers.
	NTPServers []netip.Addr
	// Private options by code, 224 to 254.
	Private map[uint8]string
}
