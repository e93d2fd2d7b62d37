package guestservices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/netplug/dhcp"
	"virtmesh/netplug/dns"
)

// Starter starts the servers of a bridge. Its methods must not block for longer than
// opening a socket takes. They take sockets out of open that the server goes on with.
type Starter interface {
	StartDHCP(ctx context.Context, b Bridge, open Sockets) (DHCPServer, error)
	StartDNS(ctx context.Context, b Bridge, zone dns.Zone, open Sockets) (DNSServer, error)
}

// DHCPServer is a running DHCP server, such as *dhcp.Server.
type DHCPServer interface {
	Set(dhcp.Pool)
	Done() <-chan struct{}
	Close() error
	// Socket returns the server's socket, nil if it has none that can be handed over.
	Socket() syscall.Conn
}

// DNSServer is a running DNS server, such as *dns.Server.
type DNSServer interface {
	Set(dns.Zone)
	Done() <-chan struct{}
	Close() error
	// Sockets returns the server's sockets, nil for those that cannot be handed over.
	Sockets() (udp, tcp syscall.Conn)
}

var (
	_ DHCPServer = (*dhcp.Server)(nil)
	_ DNSServer  = (*dns.Server)(nil)
	_ Starter    = (*realServers)(nil)
)

// realServers starts real servers.
type realServers struct {
	logger *slog.Logger
	dhcp   *dhcp.Metrics
	dns    *dns.Metrics
}

// NewStarter returns a Starter of real servers, whose metrics reg exports.
func NewStarter(logger *slog.Logger, reg prometheus.Registerer) (Starter, error) {
	d, err := dhcp.NewMetrics(reg)
	if err != nil {
		return nil, err
	}
	n, err := dns.NewMetrics(reg)
	if err != nil {
		return nil, err
	}
	return &realServers{logger: logger, dhcp: d, dns: n}, nil
}

// StartDHCP opens a server on the DHCP port of the bridge.
func (s *realServers) StartDHCP(_ context.Context, b Bridge, open Sockets) (DHCPServer, error) {
	cfg := dhcp.Config{Interface: b.Name, Logger: s.logger, Metrics: s.dhcp}
	conn, err := open.packetConn(socketDHCP)
	if err != nil {
		return nil, err
	}
	if conn != nil {
		cfg.Listen = func(string) (net.PacketConn, error) { return conn, nil }
	}
	return dhcp.Start(cfg, *b.DHCP)
}

// StartDNS opens a server on the gateway's DNS port.
func (s *realServers) StartDNS(ctx context.Context, b Bridge, zone dns.Zone, open Sockets) (_ DNSServer, err error) {
	cfg := dns.DefaultConfig()
	cfg.Address = netip.AddrPortFrom(b.Gateway.Addr(), 53)
	cfg.Interface = b.Name
	cfg.Clients = b.Gateway.Masked()
	cfg.Logger, cfg.Metrics = s.logger, s.dns
	if cfg.UDP, err = open.packetConn(socketDNSUDP); err != nil {
		return nil, err
	}
	if cfg.TCP, err = open.listener(socketDNSTCP); err != nil {
		return nil, err
	}
	return dns.Start(ctx, cfg, zone)
}

// Servers are the servers of a host, which follow a State. It is not safe for use by
// several goroutines.
type Servers struct {
	starter Starter
	logger  *slog.Logger
	// linkIndex returns the kernel's number of an interface, 0 if there is none.
	linkIndex func(name string) int
	dhcp      map[string]running[DHCPServer]
	dns       map[string]running[DNSServer]
	// open are sockets that wait for their servers, by bridge.
	open map[string][]socket
}

// running is a server and what its sockets are bound to.
type running[S any] struct {
	server  S
	gateway netip.Prefix
	index   int
}

// ServersConfig configures Servers. Starter and Logger are required.
type ServersConfig struct {
	Starter Starter
	Logger  *slog.Logger
	// LinkIndex returns the kernel's number of an interface, 0 if there is none of that name;
	// nil asks the kernel.
	LinkIndex func(name string) int
}

// NewServers returns Servers that run nothing yet.
func NewServers(cfg ServersConfig) *Servers {
	if cfg.LinkIndex == nil {
		cfg.LinkIndex = linkIndex
	}
	return &Servers{
		starter: cfg.Starter, logger: cfg.Logger, linkIndex: cfg.LinkIndex,
		dhcp: map[string]running[DHCPServer]{}, dns: map[string]running[DNSServer]{}, open: map[string][]socket{},
	}
}

func linkIndex(name string) int {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return 0
	}
	return link.Index
}

// Set starts, changes and closes servers so that they are as wanted. It is safe to call
// again: servers that have ended, or that did not start, are started again. It returns the
// failures by subject, such as "dhcp vm-pod".
func (s *Servers) Set(ctx context.Context, want State) map[string]error {
	s.endServers(want)
	failed := map[string]error{}
	for _, b := range want.Bridges {
		index := s.linkIndex(b.Name)
		open := s.takeOpen(b, index)
		if b.DHCP != nil {
			if err := s.setDHCP(ctx, b, index, open); err != nil {
				failed["dhcp "+b.Name] = err
			}
		}
		if b.DNS {
			if err := s.setDNS(ctx, b, want.Zone, index, open); err != nil {
				failed["dns "+b.Name] = err
			}
		}
		open.close()
	}
	for _, left := range s.open {
		closeSockets(left)
	}
	clear(s.open)
	return failed
}

// takeOpen takes the open sockets that fit a bridge as it is now.
func (s *Servers) takeOpen(b Bridge, index int) Sockets {
	open := Sockets{}
	for _, one := range s.open[b.Name] {
		if one.Gateway == b.Gateway && one.Index == index {
			open[one.Kind] = one.FD
		} else {
			closeSockets([]socket{one})
		}
	}
	delete(s.open, b.Name)
	return open
}

func closeSockets(sockets []socket) {
	for _, one := range sockets {
		Sockets{one.Kind: one.FD}.close()
	}
}

func (s *Servers) setDHCP(ctx context.Context, b Bridge, index int, open Sockets) error {
	if r, ok := s.dhcp[b.Name]; ok {
		r.server.Set(*b.DHCP)
		return nil
	}
	srv, err := s.starter.StartDHCP(ctx, b, open)
	if err != nil {
		return err
	}
	s.dhcp[b.Name] = running[DHCPServer]{server: srv, gateway: b.Gateway, index: index}
	return nil
}

func (s *Servers) setDNS(ctx context.Context, b Bridge, zone dns.Zone, index int, open Sockets) error {
	if r, ok := s.dns[b.Name]; ok {
		r.server.Set(zone)
		return nil
	}
	srv, err := s.starter.StartDNS(ctx, b, zone, open)
	if err != nil {
		return err
	}
	s.dns[b.Name] = running[DNSServer]{server: srv, gateway: b.Gateway, index: index}
	return nil
}

// endServers closes the servers that are no longer wanted or have ended by themselves. It
// also closes those whose bridge was made anew or got another address, because their
// sockets do not notice that.
func (s *Servers) endServers(want State) {
	bridges := map[string]Bridge{}
	for _, b := range want.Bridges {
		bridges[b.Name] = b
	}
	for name, r := range s.dhcp {
		b, ok := bridges[name]
		if !ok || b.DHCP == nil || b.Gateway != r.gateway || ended(r.server.Done()) || s.linkIndex(name) != r.index {
			s.logClose("DHCP", name, r.server.Close())
			delete(s.dhcp, name)
		}
	}
	for name, r := range s.dns {
		b, ok := bridges[name]
		if !ok || !b.DNS || b.Gateway != r.gateway || ended(r.server.Done()) || s.linkIndex(name) != r.index {
			s.logClose("DNS", name, r.server.Close())
			delete(s.dns, name)
		}
	}
}

func ended(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func (s *Servers) logClose(what, bridge string, err error) {
	if err != nil {
		s.logger.Warn("could not close a server cleanly", "server", what, "bridge", bridge, "err", err)
	}
}

// Close ends all servers and waits for them.
func (s *Servers) Close() error {
	var errs []error
	for name, r := range s.dhcp {
		errs = append(errs, r.server.Close())
		delete(s.dhcp, name)
	}
	for name, r := range s.dns {
		errs = append(errs, r.server.Close())
		delete(s.dns, name)
	}
	for name, left := range s.open {
		closeSockets(left)
		delete(s.open, name)
	}
	return errors.Join(errs...)
}

// handOver ends all servers, but leaves their sockets open, in which requests wait. The next
// Set goes on with them, unless another program does.
func (s *Servers) handOver() ([]socket, error) {
	var all []socket
	var errs []error
	keep := func(name string, gateway netip.Prefix, index int, kind string, conn syscall.Conn) {
		if conn == nil {
			return
		}
		fd, err := duplicate(conn)
		if err != nil {
			errs = append(errs, fmt.Errorf("keep the socket %s of %s: %w", kind, name, err))
			return
		}
		all = append(all, socket{Bridge: name, Gateway: gateway, Index: index, Kind: kind, FD: fd})
	}
	for name, r := range s.dhcp {
		keep(name, r.gateway, r.index, socketDHCP, r.server.Socket())
	}
	for name, r := range s.dns {
		udp, tcp := r.server.Sockets()
		keep(name, r.gateway, r.index, socketDNSUDP, udp)
		keep(name, r.gateway, r.index, socketDNSTCP, tcp)
	}
	errs = append(errs, s.Close())
	s.adopt(all)
	return all, errors.Join(errs...)
}

// adopt makes the next Set go on with open sockets.
func (s *Servers) adopt(sockets []socket) {
	for _, one := range sockets {
		s.open[one.Bridge] = append(s.open[one.Bridge], one)
	}
}
