// Package dhcp serves DHCPv4 on one interface, from reservations only.
//
// A client gets the address that is reserved for its network card, or no answer at all.
// There are no dynamic leases, so nothing is lost when the server restarts, and two servers
// with the same reservations give the same answers. A pure function (Pool.Reply) computes
// the answer; Server is the loop around it. One goroutine handles the requests one at a
// time, so a client that floods the server costs no memory.
//
// The package does not choose addresses, does not serve relays, and does not check the
// bridge port through which a request came in. It relies on the packet filter, which holds
// every guest to its own hardware address, in the DHCP message too.
package dhcp

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/rfc1035label"
)

// DefaultLeaseTime is the lease time of a pool whose LeaseTime is zero or negative.
const DefaultLeaseTime = time.Hour

// Pool is what a server answers with.
type Pool struct {
	// Gateway is the server's address, which is also the clients' router, with the prefix
	// length of their subnet.
	Gateway   netip.Prefix
	LeaseTime time.Duration
	// MTU is announced to clients; 0 announces none.
	MTU int
	// DNS, Domain and Search are announced to clients if they are set. Domain goes into
	// option 15 and Search into option 119; both are sent because a client may read only
	// one of them. The Search of a reservation comes before the one of the pool.
	DNS    []netip.Addr
	Domain string
	Search []string
	// Reservations lists the clients. If two have the same MAC, the last one counts.
	Reservations []Reservation
}

// Outcome says how a request was answered. It labels metrics and log lines.
type Outcome string

// The outcomes of a request.
const (
	Offered  Outcome = "offer"
	Acked    Outcome = "ack"
	Nacked   Outcome = "nak"
	Declined Outcome = "decline"
	Released Outcome = "release"
	// Unknown is a request from a network card without a reservation.
	Unknown Outcome = "unknown_client"
	// Ignored is a message that the server does not serve: for another server, through a
	// relay, or not a request.
	Ignored Outcome = "ignored"
	// Malformed is a message that cannot be parsed as DHCP.
	Malformed Outcome = "malformed"
	// Failed is a request whose answer could not be built or sent.
	Failed Outcome = "failed"
)

// lookup is a pool prepared for answering.
type lookup struct {
	Pool
	byMAC map[string]Reservation
}

func newLookup(p Pool) *lookup {
	l := &lookup{Pool: p, byMAC: make(map[string]Reservation, len(p.Reservations))}
	if l.LeaseTime <= 0 {
		l.LeaseTime = DefaultLeaseTime
	}
	for _, r := range p.Reservations {
		l.byMAC[string(r.MAC)] = r
	}
	return l
}

// Reply returns the answer to a request, nil if the request gets no answer.
func (p Pool) Reply(req *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, Outcome, error) {
	return newLookup(p).reply(req)
}

func (l *lookup) reply(req *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, Outcome, error) {
	relayed := req.GatewayIPAddr != nil && !req.GatewayIPAddr.IsUnspecified()
	if req.OpCode != dhcpv4.OpcodeBootRequest || relayed {
		return nil, Ignored, nil
	}
	r, ok := l.byMAC[string(req.ClientHWAddr)]
	if !ok {
		return nil, Unknown, nil
	}
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		m, err := l.buildAnswer(req, r, dhcpv4.MessageTypeOffer, true)
		return m, Offered, err
	case dhcpv4.MessageTypeRequest:
		return l.replyRequest(req, r)
	case dhcpv4.MessageTypeInform:
		m, err := l.buildAnswer(req, r, dhcpv4.MessageTypeAck, false)
		return m, Acked, err
	case dhcpv4.MessageTypeDecline:
		return nil, Declined, nil
	case dhcpv4.MessageTypeRelease:
		return nil, Released, nil
	default:
		return nil, Ignored, nil
	}
}

// replyRequest answers a DHCPREQUEST. The client names the address it wants in option 50
// when it accepts an offer or restarts, and in ciaddr when it renews (RFC 2131, section
// 4.3.2).
func (l *lookup) replyRequest(req *dhcpv4.DHCPv4, r Reservation) (*dhcpv4.DHCPv4, Outcome, error) {
	if id := req.ServerIdentifier(); len(id) > 0 && !id.IsUnspecified() && !id.Equal(l.serverID()) {
		return nil, Ignored, nil // The client accepts the offer of another server.
	}
	asked := req.RequestedIPAddress()
	if len(asked) == 0 || asked.IsUnspecified() {
		asked = req.ClientIPAddr
	}
	if !asked.Equal(r.Address.AsSlice()) {
		m, err := dhcpv4.NewReplyFromRequest(req,
			dhcpv4.WithMessageType(dhcpv4.MessageTypeNak),
			dhcpv4.WithServerIP(nil),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(l.serverID())),
			dhcpv4.WithOption(dhcpv4.OptMessage("this address is not reserved for you")))
		return m, Nacked, err
	}
	m, err := l.buildAnswer(req, r, dhcpv4.MessageTypeAck, true)
	return m, Acked, err
}

func (l *lookup) serverID() net.IP { return l.Gateway.Addr().AsSlice() }

// buildAnswer builds an offer or an acknowledgement. lease is false for a client that has an
// address and asks only for the options (DHCPINFORM).
func (l *lookup) buildAnswer(req *dhcpv4.DHCPv4, r Reservation, kind dhcpv4.MessageType, lease bool) (*dhcpv4.DHCPv4, error) {
	mods := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(l.serverID())),
		dhcpv4.WithOption(dhcpv4.OptSubnetMask(net.CIDRMask(l.Gateway.Bits(), 32))),
		dhcpv4.WithOption(dhcpv4.OptRouter(l.serverID())),
	}
	if lease {
		mods = append(mods,
			dhcpv4.WithYourIP(r.Address.AsSlice()),
			dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(l.LeaseTime)),
			dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(l.LeaseTime/2)),
			dhcpv4.WithOption(dhcpv4.OptRebindingTimeValue(l.LeaseTime/8*7)))
	}
	if len(l.DNS) > 0 {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptDNS(ips(l.DNS)...)))
	}
	if l.Domain != "" {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptDomainName(l.Domain)))
	}
	if search := slices.Concat(r.Search, l.Search); len(search) > 0 {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptDomainSearch(&rfc1035label.Labels{Labels: search})))
	}
	if l.MTU > 0 {
		mods = append(mods, dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{byte(l.MTU >> 8), byte(l.MTU)}))
	}
	m, err := dhcpv4.NewReplyFromRequest(req, append(mods, clientOptions(r)...)...)
	if err != nil {
		return nil, fmt.Errorf("answer %s to %s: %w", kind, r.MAC, err)
	}
	return m, nil
}

// clientOptions returns the options of one client.
func clientOptions(r Reservation) []dhcpv4.Modifier {
	var mods []dhcpv4.Modifier
	if r.Hostname != "" {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptHostName(r.Hostname)))
	}
	o := r.Options
	if o.BootFile != "" {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptBootFileName(o.BootFile)),
			func(m *dhcpv4.DHCPv4) { m.BootFileName = o.BootFile })
	}
	if o.TFTPServer != "" {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptTFTPServerName(o.TFTPServer)))
		if ip := net.ParseIP(o.TFTPServer).To4(); ip != nil {
			mods = append(mods, dhcpv4.WithServerIP(ip))
		}
	}
	if len(o.NTPServers) > 0 {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptNTPServers(ips(o.NTPServers)...)))
	}
	for code, value := range o.Private {
		mods = append(mods, dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(code), []byte(value)))
	}
	return mods
}

func ips(addrs []netip.Addr) []net.IP {
	out := make([]net.IP, len(addrs))
	for i, a := range addrs {
		out[i] = a.AsSlice()
	}
	return out
}
