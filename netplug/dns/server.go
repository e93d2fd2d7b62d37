package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// Metrics counts what servers do. Servers share one.
type Metrics struct {
	queries *prometheus.CounterVec
}

// NewMetrics registers the metrics; a nil registerer counts for no one.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{queries: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "virtmesh_netplug_dns_queries_total",
		Help: "DNS queries received from guests, by who answered (local, upstream, none) and the code of the answer.",
	}, []string{"source", "rcode"})}
	if reg != nil {
		if err := reg.Register(m.queries); err != nil {
			return nil, fmt.Errorf("register DNS metrics: %w", err)
		}
	}
	return m, nil
}

// Config says where a server serves, and how much it takes on.
type Config struct {
	// Address and port to listen on, over UDP and TCP.
	Address netip.AddrPort
	// Interface that queries must come in through; empty for any.
	Interface string
	// Clients are the only ones that are answered.
	Clients netip.Prefix
	// MaxQueries is how many are worked on at a time.
	MaxQueries int
	// UpstreamTimeout is how long one query may take, over all upstreams.
	UpstreamTimeout time.Duration
	Logger          *slog.Logger
	Metrics         *Metrics
}

// DefaultConfig returns the bounds of a server; the rest must be filled in.
func DefaultConfig() Config {
	return Config{MaxQueries: 256, UpstreamTimeout: 3 * time.Second}
}

// Validate reports what is missing.
func (c Config) Validate() error {
	switch {
	case !c.Address.IsValid():
		return errors.New("dns: Address is missing")
	case !c.Clients.IsValid():
		return errors.New("dns: Clients is missing")
	case c.MaxQueries < 1:
		return errors.New("dns: MaxQueries must be at least 1")
	case c.UpstreamTimeout <= 0:
		return errors.New("dns: UpstreamTimeout must be above 0")
	case c.Logger == nil:
		return errors.New("dns: Logger is missing")
	case c.Metrics == nil:
		return errors.New("dns: Metrics is missing")
	}
	return nil
}

// Server answers queries until it is closed.
type Server struct {
	cfg   Config
	table atomic.Pointer[table]
	admit *admission
	udp   *mdns.Server
	tcp   *mdns.Server
	addr  netip.AddrPort

	cancel context.CancelFunc // ends queries under way
	wg     sync.WaitGroup
	done   chan struct{}
}

// Start listens and serves the zone.
func Start(ctx context.Context, cfg Config, zone Zone) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, admit: newAdmission(cfg.MaxQueries), done: make(chan struct{})}
	s.Set(zone)
	if err := s.listen(ctx); err != nil {
		return nil, err
	}
	// The server outlives the call that starts it.
	queryCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	started := make(chan struct{}, 2)
	for _, srv := range []*mdns.Server{s.udp, s.tcp} {
		srv.Handler = mdns.HandlerFunc(func(w mdns.ResponseWriter, req *mdns.Msg) { s.handle(queryCtx, w, req) })
		srv.NotifyStartedFunc = func() { started <- struct{}{} }
		s.wg.Go(func() {
			if err := srv.ActivateAndServe(); err != nil {
				cfg.Logger.Error("DNS server ends", "address", s.addr, "err", err)
				started <- struct{}{}
			}
		})
	}
	go func() {
		s.wg.Wait()
		close(s.done)
	}()
	<-started
	<-started
	return s, nil
}

// listen opens the UDP and TCP sockets on the same port.
func (s *Server) listen(ctx context.Context) error {
	lc := net.ListenConfig{Control: bindTo(s.cfg.Interface)}
	pc, err := lc.ListenPacket(ctx, "udp", s.cfg.Address.String())
	if err != nil {
		return fmt.Errorf("listen for DNS: %w", err)
	}
	s.addr = netip.AddrPortFrom(s.cfg.Address.Addr(), uint16(pc.LocalAddr().(*net.UDPAddr).Port))
	ln, err := lc.Listen(ctx, "tcp", s.addr.String())
	if err != nil {
		_ = pc.Close()
		return fmt.Errorf("listen for DNS: %w", err)
	}
	s.udp = &mdns.Server{PacketConn: pc}
	s.tcp = &mdns.Server{
		Listener:      &boundedListener{Listener: ln, admit: newAdmission(s.cfg.MaxQueries)},
		ReadTimeout:   2 * time.Second,
		WriteTimeout:  2 * time.Second,
		IdleTimeout:   func() time.Duration { return 5 * time.Second },
		MaxTCPQueries: 16,
	}
	return nil
}

// bindTo keeps a socket to one interface, so that an address which other interfaces can
// reach too is not served to them.
func bindTo(iface string) func(network, address string, c syscall.RawConn) error {
	if iface == "" {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), iface) })
		return errors.Join(ctlErr, err)
	}
}

// Addr returns where the server listens.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Set replaces what the server answers with. It may be called at any time.
func (s *Server) Set(zone Zone) { s.table.Store(newTable(zone)) }

// Done is closed when the server has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// Close ends the server, gives up queries under way and waits for it.
func (s *Server) Close() error {
	s.cancel()
	err := errors.Join(ignoreNotStarted(s.udp.Shutdown()), ignoreNotStarted(s.tcp.Shutdown()))
	<-s.done
	if err != nil {
		return fmt.Errorf("close DNS on %s: %w", s.addr, err)
	}
	return nil
}

// ignoreNotStarted passes over a server that ended by itself.
func ignoreNotStarted(err error) error {
	if err != nil && err.Error() == "dns: server not started" {
		return nil
	}
	return err
}

// handle answers one query; the library runs each in a goroutine of its own.
func (s *Server) handle(ctx context.Context, w mdns.ResponseWriter, req *mdns.Msg) {
	client, ok := s.client(w.RemoteAddr())
	if !ok {
		return
	}
	resp, source := new(mdns.Msg).SetRcode(req, mdns.RcodeServerFailure), "none"
	if release, ok := s.admit.enter(client); ok {
		resp, source = s.answer(ctx, w.LocalAddr().Network(), req)
		release()
	}
	s.cfg.Metrics.queries.WithLabelValues(source, rcodeName(resp.Rcode)).Inc()
	if w.LocalAddr().Network() == "udp" {
		resp.Truncate(udpSize(req))
	}
	if err := w.WriteMsg(resp); err != nil {
		s.cfg.Logger.Debug("DNS answer cannot be sent", "to", w.RemoteAddr(), "err", err)
	}
}

// client returns who asks, if it is one to answer. A query that comes from a server's
// port could be an answer sent back in a loop.
func (s *Server) client(remote net.Addr) (netip.Addr, bool) {
	a, err := netip.ParseAddrPort(remote.String())
	client := a.Addr().Unmap()
	return client, err == nil && s.cfg.Clients.Contains(client) && a.Port() != 53
}

func (s *Server) answer(ctx context.Context, network string, req *mdns.Msg) (resp *mdns.Msg, source string) {
	fail := func(code int) (*mdns.Msg, string) {
		return new(mdns.Msg).SetRcode(req, code), "none"
	}
	switch {
	case req.Opcode != mdns.OpcodeQuery:
		return fail(mdns.RcodeNotImplemented)
	case len(req.Question) != 1:
		return fail(mdns.RcodeFormatError)
	case req.Question[0].Qclass != mdns.ClassINET:
		return fail(mdns.RcodeRefused)
	}
	switch req.Question[0].Qtype {
	case mdns.TypeAXFR, mdns.TypeIXFR:
		return fail(mdns.RcodeRefused)
	}
	t := s.table.Load()
	if resp, ok := t.local(req); ok {
		return resp, "local"
	}
	if resp := s.forward(ctx, t.upstreams, network, req); resp != nil {
		return resp, "upstream"
	}
	return fail(mdns.RcodeServerFailure)
}

// forward asks the upstreams in turn until one answers; nil when none does in time.
func (s *Server) forward(ctx context.Context, upstreams []string, network string, req *mdns.Msg) *mdns.Msg {
	deadline := time.Now().Add(s.cfg.UpstreamTimeout)
	for i, u := range upstreams {
		// One that is silent leaves its share of the time to those after it.
		share := time.Until(deadline) / time.Duration(len(upstreams)-i)
		each, done := context.WithTimeout(ctx, share)
		client := &mdns.Client{Net: network, UDPSize: mdns.DefaultMsgSize}
		out := req.Copy()
		out.Id = mdns.Id() // The client's own number is the client's to guess, not ours to show.
		resp, _, err := client.ExchangeContext(each, out, u)
		done()
		if err != nil || resp.Rcode == mdns.RcodeServerFailure && i < len(upstreams)-1 {
			s.cfg.Logger.Debug("DNS upstream does not answer", "upstream", u, "err", err)
			continue
		}
		resp.Id = req.Id
		return resp
	}
	return nil
}

// udpSize is the longest answer the client can take over UDP.
func udpSize(req *mdns.Msg) int {
	if opt := req.IsEdns0(); opt != nil && opt.UDPSize() > mdns.MinMsgSize {
		// Longer ones would be sent in fragments, which guests' firewalls drop.
		return min(int(opt.UDPSize()), 1232)
	}
	return mdns.MinMsgSize
}

func rcodeName(code int) string {
	if name, ok := mdns.RcodeToString[code]; ok {
		return name
	}
	return "other"
}
