package guestservices

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"virtmesh/netplug/dhcp"
	"virtmesh/netplug/dns"
)

// formatVersion is the version of the file. A reader ignores fields that it does not know,
// so a field may be added; a change that an earlier reader would misunderstand needs a new
// version, which earlier readers refuse: they go on with what they have.
const formatVersion = 1

// maxFile is how large the file may be, in bytes. A host with a thousand guests needs 300 KiB.
const maxFile = 16 << 20

// State is all that the guests of a host are answered with.
type State struct {
	Bridges []Bridge
	// Zone is what the name servers of all bridges answer.
	Zone dns.Zone
}

// Bridge is a network of guests whose requests are answered.
type Bridge struct {
	// Name of the interface.
	Name string
	// Gateway is the host's IPv4 address there, with the prefix length of the subnet.
	Gateway netip.Prefix
	// DHCP is what the DHCP server answers with, nil for no server. Its Gateway is that of
	// the bridge.
	DHCP *dhcp.Pool
	// DNS says that there is a name server on the gateway's address.
	DNS bool
}

// file is the form of a State in its file.
type file struct {
	Version int          `json:"version"`
	Bridges []fileBridge `json:"bridges"`
	Zone    fileZone     `json:"zone"`
}

type fileBridge struct {
	Name    string       `json:"name"`
	Gateway netip.Prefix `json:"gateway"`
	DHCP    *filePool    `json:"dhcp,omitempty"`
	DNS     bool         `json:"dns,omitempty"`
}

type filePool struct {
	LeaseSeconds int64             `json:"leaseSeconds,omitempty"`
	MTU          int               `json:"mtu,omitempty"`
	DNS          []netip.Addr      `json:"dns,omitempty"`
	Domain       string            `json:"domain,omitempty"`
	Search       []string          `json:"search,omitempty"`
	Reservations []fileReservation `json:"reservations,omitempty"`
}

type fileReservation struct {
	MAC        string           `json:"mac"`
	Address    netip.Addr       `json:"address"`
	Hostname   string           `json:"hostname,omitempty"`
	Search     []string         `json:"search,omitempty"`
	BootFile   string           `json:"bootFile,omitempty"`
	TFTPServer string           `json:"tftpServer,omitempty"`
	NTPServers []netip.Addr     `json:"ntpServers,omitempty"`
	Private    map[uint8]string `json:"private,omitempty"`
}

type fileZone struct {
	Domain    string                  `json:"domain,omitempty"`
	Records   map[string][]netip.Addr `json:"records,omitempty"`
	Upstreams []netip.AddrPort        `json:"upstreams,omitempty"`
}

// Encode returns the file for a state; equal states give equal files. It returns an error
// for a state that Decode would refuse.
func Encode(s State) ([]byte, error) {
	f := file{Version: formatVersion, Bridges: []fileBridge{}, Zone: fileZone(s.Zone)}
	for _, b := range s.Bridges {
		f.Bridges = append(f.Bridges, fileBridge{Name: b.Name, Gateway: b.Gateway, DHCP: poolToFile(b.DHCP), DNS: b.DNS})
	}
	data, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encode the state of guest services: %w", err)
	}
	if _, err := Decode(data); err != nil {
		return nil, err
	}
	return data, nil
}

func poolToFile(p *dhcp.Pool) *filePool {
	if p == nil {
		return nil
	}
	f := &filePool{LeaseSeconds: int64(p.LeaseTime / time.Second), MTU: p.MTU, DNS: p.DNS, Domain: p.Domain, Search: p.Search}
	for _, r := range p.Reservations {
		f.Reservations = append(f.Reservations, fileReservation{
			MAC: r.MAC.String(), Address: r.Address, Hostname: r.Hostname, Search: r.Search, BootFile: r.Options.BootFile,
			TFTPServer: r.Options.TFTPServer, NTPServers: r.Options.NTPServers, Private: r.Options.Private,
		})
	}
	return f
}

// Decode reads a file. The error names the field that is not valid.
func Decode(data []byte) (State, error) {
	s, err := decode(data)
	if err != nil {
		return State{}, fmt.Errorf("state of guest services: %w", err)
	}
	return s, nil
}

func decode(data []byte) (s State, err error) {
	if len(data) > maxFile {
		return s, fmt.Errorf("%d bytes are more than %d", len(data), maxFile)
	}
	var f file
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&f); err != nil {
		return s, err
	}
	if f.Version != formatVersion {
		return s, fmt.Errorf("version: %d is not %d, which this program reads", f.Version, formatVersion)
	}
	if s.Zone, err = zoneFromFile(f.Zone); err != nil {
		return s, fmt.Errorf("zone.%w", err)
	}
	seen := map[string]bool{}
	for i, b := range f.Bridges {
		bridge, err := bridgeFromFile(b)
		if err == nil && seen[b.Name] {
			err = fmt.Errorf("name: %q is there twice", b.Name)
		}
		if err != nil {
			return s, fmt.Errorf("bridges[%d].%w", i, err)
		}
		seen[b.Name] = true
		s.Bridges = append(s.Bridges, bridge)
	}
	return s, nil
}

func zoneFromFile(f fileZone) (dns.Zone, error) {
	if f.Domain != "" && !isName(f.Domain) {
		return dns.Zone{}, fmt.Errorf("domain: %q is not a domain name", f.Domain)
	}
	for name, addrs := range f.Records {
		if !isName(name + "." + f.Domain) {
			return dns.Zone{}, fmt.Errorf("records: %q is not a name in %s", name, f.Domain)
		}
		for _, a := range addrs {
			if !a.IsValid() {
				return dns.Zone{}, fmt.Errorf("records[%s]: an address is missing", name)
			}
		}
	}
	for i, u := range f.Upstreams {
		if !u.IsValid() {
			return dns.Zone{}, fmt.Errorf("upstreams[%d]: the address is missing", i)
		}
	}
	return dns.Zone(f), nil
}

// maxInterface is the longest name that the kernel takes for an interface.
const maxInterface = 15

func bridgeFromFile(f fileBridge) (Bridge, error) {
	b := Bridge{Name: f.Name, Gateway: f.Gateway, DNS: f.DNS}
	if f.Name == "" || len(f.Name) > maxInterface || strings.ContainsAny(f.Name, "/\x00 \t\n") {
		return b, fmt.Errorf("name: %q is not the name of an interface", f.Name)
	}
	if !f.Gateway.Addr().Is4() {
		return b, fmt.Errorf("gateway: %s is not an IPv4 address with the length of its prefix", f.Gateway)
	}
	if f.DHCP == nil {
		return b, nil
	}
	pool, err := poolFromFile(*f.DHCP)
	if err != nil {
		return b, fmt.Errorf("dhcp.%w", err)
	}
	pool.Gateway, b.DHCP = f.Gateway, &pool
	return b, nil
}

// maxLease is the longest lease time that DHCP can tell.
const maxLease = 1<<32 - 1

func poolFromFile(f filePool) (dhcp.Pool, error) {
	p := dhcp.Pool{LeaseTime: time.Duration(f.LeaseSeconds) * time.Second, MTU: f.MTU, DNS: f.DNS, Domain: f.Domain, Search: f.Search}
	switch {
	case f.LeaseSeconds < 0 || f.LeaseSeconds > maxLease:
		return p, fmt.Errorf("leaseSeconds: %d is not between 0 and %d", f.LeaseSeconds, int64(maxLease))
	case f.MTU < 0 || f.MTU > 1<<16-1:
		return p, fmt.Errorf("mtu: %d is not between 0 and 65535", f.MTU)
	case f.Domain != "" && !isName(f.Domain):
		return p, fmt.Errorf("domain: %q is not a domain name", f.Domain)
	}
	if err := errors.Join(checkIPv4("dns", f.DNS), checkNames("search", f.Search)); err != nil {
		return p, err
	}
	for i, r := range f.Reservations {
		reservation, err := reservationFromFile(r)
		if err != nil {
			return p, fmt.Errorf("reservations[%d].%w", i, err)
		}
		p.Reservations = append(p.Reservations, reservation)
	}
	return p, nil
}

// maxOption is the longest value of a DHCP option, in bytes.
const maxOption = 255

func reservationFromFile(f fileReservation) (dhcp.Reservation, error) {
	mac, err := net.ParseMAC(f.MAC)
	if err != nil || len(mac) != 6 {
		return dhcp.Reservation{}, fmt.Errorf("mac: %q is not the address of a network card", f.MAC)
	}
	r := dhcp.Reservation{MAC: mac, Address: f.Address, Hostname: f.Hostname, Search: f.Search, Options: dhcp.Options{
		BootFile: f.BootFile, TFTPServer: f.TFTPServer, NTPServers: f.NTPServers, Private: f.Private,
	}}
	for field, text := range map[string]string{"hostname": f.Hostname, "bootFile": f.BootFile, "tftpServer": f.TFTPServer} {
		if len(text) > maxOption {
			return r, fmt.Errorf("%s: it has %d bytes, more than %d", field, len(text), maxOption)
		}
	}
	for code, text := range f.Private {
		if code < 224 || code > 254 || len(text) > maxOption {
			return r, fmt.Errorf("private[%d]: options 224 to 254 with at most %d bytes are allowed", code, maxOption)
		}
	}
	return r, errors.Join(checkIPv4("address", []netip.Addr{f.Address}), checkIPv4("ntpServers", f.NTPServers), checkNames("search", f.Search))
}

func checkIPv4(field string, addrs []netip.Addr) error {
	for _, a := range addrs {
		if !a.Is4() {
			return fmt.Errorf("%s: %s is not an IPv4 address", field, a)
		}
	}
	return nil
}

func checkNames(field string, names []string) error {
	for _, name := range names {
		if !isName(name) {
			return fmt.Errorf("%s: %q is not a domain name", field, name)
		}
	}
	return nil
}

// isName reports whether DNS can carry a name: labels of 1 to 63 bytes, 253 in all.
func isName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > 63 {
			return false
		}
	}
	return true
}
