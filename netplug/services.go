package netplug

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"virtmesh/netplug/dhcp"
	"virtmesh/netplug/dns"
	"virtmesh/netplug/guestservices"
)

// Services answer the DHCP and DNS requests of guests.
type Services interface {
	// Set has them answered as the state says. It returns the failures by subject, such as
	// "dhcp vm-pod". A Plug never calls it concurrently.
	Set(ctx context.Context, want guestservices.State) map[string]error
	// Close releases what answers in this process.
	Close() error
}

var (
	_ Services = (*guestservices.Servers)(nil)
	_ Services = (*guestservices.Client)(nil)
)

// serversHere returns services that run in this process and end with it.
func serversHere(cfg Config) (Services, error) {
	starter, err := guestservices.NewStarter(cfg.Logger, cfg.Registerer)
	if err != nil {
		return nil, err
	}
	return guestservices.NewServers(guestservices.ServersConfig{Starter: starter, Logger: cfg.Logger}), nil
}

// stateOf is what the guests of a Want are answered with.
func (p *Plug) stateOf(w Want) guestservices.State {
	state := guestservices.State{Zone: p.zone(w)}
	for _, b := range w.Bridges {
		if b.DHCP == nil && !b.DNS {
			continue
		}
		served := guestservices.Bridge{Name: b.Name, Gateway: b.Address, DNS: b.DNS}
		if b.DHCP != nil {
			pool := poolOf(b, w.Taps)
			served.DHCP = &pool
		}
		state.Bridges = append(state.Bridges, served)
	}
	return state
}

// zone returns the zone that all name servers answer. It reads the host's own name servers
// each time, because they change with the networks that the host is in.
func (p *Plug) zone(w Want) dns.Zone {
	z := dns.Zone{Domain: w.DNS.Domain, Records: w.DNS.Records, Upstreams: w.DNS.Upstreams}
	if len(z.Upstreams) > 0 || !slices.ContainsFunc(w.Bridges, func(b Bridge) bool { return b.DNS }) {
		return z
	}
	var own []netip.Addr
	for _, b := range w.Bridges {
		own = append(own, b.Address.Addr())
	}
	upstreams, err := dns.Upstreams(p.cfg.ResolvConf, own...)
	reason := ""
	if err != nil {
		reason = fmt.Errorf("read %s: %w", p.cfg.ResolvConf, err).Error()
	}
	if reason != "" && reason != p.noUpstreams {
		// Guests can still resolve each other's names.
		p.cfg.Logger.Warn("no upstream name servers", "err", reason)
	}
	p.noUpstreams = reason
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
