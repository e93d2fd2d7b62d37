package netplug

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/netplug/dhcp"
	"virtmesh/netplug/dns"
)

// ServiceStarter starts the servers of a bridge. Its methods must not block for longer
// than opening a socket takes.
type ServiceStarter interface {
	StartDHCP(ctx context.Context, bridge string, pool dhcp.Pool) (DHCPServer, error)
	StartDNS(ctx context.Context, bridge string, gateway netip.Prefix, zone dns.Zone) (DNSServer, error)
}

// DHCPServer is a running DHCP server, such as *dhcp.Server.
type DHCPServer interface {
	Set(dhcp.Pool)
	Done() <-chan struct{}
	Close() error
}

// DNSServer is a running DNS server, such as *dns.Server.
type DNSServer interface {
	Set(dns.Zone)
	Done() <-chan struct{}
	Close() error
}

var (
	_ DHCPServer     = (*dhcp.Server)(nil)
	_ DNSServer      = (*dns.Server)(nil)
	_ ServiceStarter = (*servers)(nil)
)

// servers starts real servers.
type servers struct {
	logger *slog.Logger
	dhcp   *dhcp.Metrics
	dns    *dns.Metrics
}

func newServers(logger *slog.Logger, reg prometheus.Registerer) (*servers, error) {
	d, err := dhcp.NewMetrics(reg)
	if err != nil {
		return nil, err
	}
	n, err := dns.NewMetrics(reg)
	if err != nil {
		return nil, err
	}
	return &servers{logger: logger, dhcp: d, dns: n}, nil
}

// StartDHCP opens a server on the DHCP port of the bridge.
func (s *servers) StartDHCP(_ context.Context, bridge string, pool dhcp.Pool) (DHCPServer, error) {
	return dhcp.Start(dhcp.Config{Interface: bridge, Logger: s.logger, Metrics: s.dhcp}, pool)
}

// StartDNS opens a server on the gateway's DNS port.
func (s *servers) StartDNS(ctx context.Context, bridge string, gateway netip.Prefix, zone dns.Zone) (DNSServer, error) {
	cfg := dns.DefaultConfig()
	cfg.Address = netip.AddrPortFrom(gateway.Addr(), 53)
	cfg.Interface = bridge
	cfg.Clients = gateway.Masked()
	cfg.Logger, cfg.Metrics = s.logger, s.dns
	return dns.Start(ctx, cfg, zone)
}

// services holds the running servers by bridge. The lock of the Plug guards it.
type services struct {
	cfg  Config
	dhcp map[string]runningDHCP
	dns  map[string]runningDNS
	// noUpstreams is why the last Set found no upstream name servers. A reason is logged
	// only when it changes.
	noUpstreams string
}

type runningDHCP struct {
	DHCPServer
	gateway netip.Prefix
}

type runningDNS struct {
	DNSServer
	gateway netip.Prefix
}

func newServices(cfg Config) *services {
	return &services{cfg: cfg, dhcp: map[string]runningDHCP{}, dns: map[string]runningDNS{}}
}

// setServices starts, changes and closes servers as wanted, and adds failures to
// res.Failed.
func (s *services) setServices(ctx context.Context, w Want, res Result) {
	s.endServices(w, res.Plan)
	zone := s.zone(w)
	for _, b := range w.Bridges {
		if res.Failed[bridgeSubject(b.Name)] != nil {
			continue
		}
		if b.DHCP != nil {
			if err := s.setDHCP(ctx, b, poolOf(b, w.Taps)); err != nil {
				res.Failed["dhcp "+b.Name] = err
			}
		}
		if b.DNS {
			if err := s.setDNS(ctx, b, zone); err != nil {
				res.Failed["dns "+b.Name] = err
			}
		}
	}
}

func (s *services) setDHCP(ctx context.Context, b Bridge, pool dhcp.Pool) error {
	if srv, ok := s.dhcp[b.Name]; ok {
		srv.Set(pool)
		return nil
	}
	srv, err := s.cfg.Services.StartDHCP(ctx, b.Name, pool)
	if err != nil {
		return err
	}
	s.dhcp[b.Name] = runningDHCP{DHCPServer: srv, gateway: b.Address}
	return nil
}

func (s *services) setDNS(ctx context.Context, b Bridge, zone dns.Zone) error {
	if srv, ok := s.dns[b.Name]; ok {
		srv.Set(zone)
		return nil
	}
	srv, err := s.cfg.Services.StartDNS(ctx, b.Name, b.Address, zone)
	if err != nil {
		return err
	}
	s.dns[b.Name] = runningDNS{DNSServer: srv, gateway: b.Address}
	return nil
}

// endServices closes the servers that are no longer wanted or have ended by themselves. It
// also closes those whose bridge was made anew or got another address, because their
// sockets do not notice that.
func (s *services) endServices(w Want, plan Plan) {
	stillWanted := func(name string, gateway netip.Prefix, done <-chan struct{}, wanted func(Bridge) bool) bool {
		select {
		case <-done:
			return false
		default:
		}
		return !madeAnew(plan, name) && slices.ContainsFunc(w.Bridges, func(b Bridge) bool {
			return b.Name == name && b.Address == gateway && wanted(b)
		})
	}
	for name, srv := range s.dhcp {
		if !stillWanted(name, srv.gateway, srv.Done(), func(b Bridge) bool { return b.DHCP != nil }) {
			s.logClose("DHCP", name, srv.Close())
			delete(s.dhcp, name)
		}
	}
	for name, srv := range s.dns {
		if !stillWanted(name, srv.gateway, srv.Done(), func(b Bridge) bool { return b.DNS }) {
			s.logClose("DNS", name, srv.Close())
			delete(s.dns, name)
		}
	}
}

func (s *services) logClose(what, bridge string, err error) {
	if err != nil {
		s.cfg.Logger.Warn("could not close a server cleanly", "server", what, "bridge", bridge, "err", err)
	}
}

func madeAnew(plan Plan, bridge string) bool {
	return slices.ContainsFunc(plan.Steps, func(s Step) bool {
		add, ok := s.Op.(AddBridge)
		return ok && add.Name == bridge
	})
}

func (s *services) close() error {
	var errs []error
	for name, srv := range s.dhcp {
		errs = append(errs, srv.Close())
		delete(s.dhcp, name)
	}
	for name, srv := range s.dns {
		errs = append(errs, srv.Close())
		delete(s.dns, name)
	}
	return errors.Join(errs...)
}

// zone returns the zone that all name servers answer. It reads the host's own name servers
// each time, because they change with the networks that the host is in.
func (s *services) zone(w Want) dns.Zone {
	z := dns.Zone{Domain: w.DNS.Domain, Records: w.DNS.Records, Upstreams: w.DNS.Upstreams}
	if len(z.Upstreams) > 0 || !slices.ContainsFunc(w.Bridges, func(b Bridge) bool { return b.DNS }) {
		return z
	}
	var own []netip.Addr
	for _, b := range w.Bridges {
		own = append(own, b.Address.Addr())
	}
	upstreams, err := dns.Upstreams(s.cfg.ResolvConf, own...)
	reason := ""
	if err != nil {
		reason = fmt.Errorf("read %s: %w", s.cfg.ResolvConf, err).Error()
	}
	if reason != "" && reason != s.noUpstreams {
		// Guests can still resolve each other's names.
		s.cfg.Logger.Warn("no upstream name servers", "err", reason)
	}
	s.noUpstreams = reason
	z.Upstreams = upstreams
	return z
}

// poolOf is what DHCP serves on a bridge.
func poolOf(b Bridge, taps []Tap) dhcp.Pool {
	p := dhcp.Pool{
		Gateway:      b.Address,
		LeaseTime:    b.DHCP.LeaseTime,
		MTU:          b.MTU,
		DNS:          b.DHCP.DNSServers,
		Domain:       b.DHCP.Domain,
		Search:       b.DHCP.Search,
		Reservations: reservations(b, taps),
	}
	if len(p.Search) == 0 && p.Domain != "" {
		p.Search = []string{p.Domain}
	}
	if len(p.DNS) == 0 && b.DNS {
		p.DNS = []netip.Addr{b.Address.Addr()}
	}
	return p
}

// reservations returns the DHCP reservations of the taps on the bridge.
func reservations(b Bridge, taps []Tap) []dhcp.Reservation {
	if b.DHCP == nil {
		return nil
	}
	var out []dhcp.Reservation
	for _, t := range taps {
		if t.Bridge == b.Name && t.Address.IsValid() {
			r := dhcp.Reservation{MAC: t.MAC, Address: t.Address, Hostname: t.Hostname, Options: t.Options}
			if len(b.DHCP.Search) == 0 && b.DHCP.Domain != "" && t.Namespace != "" {
				r.Search = []string{t.Namespace + "." + b.DHCP.Domain}
			}
			out = append(out, r)
		}
	}
	return out
}
