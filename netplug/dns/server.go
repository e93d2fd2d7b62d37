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

// Metrics counts queries. All servers share one Metrics.
type Metrics struct {
	queries *prometheus.CounterVec
}

// Queries describes the counter of queries.
func Queries() prometheus.CounterOpts {
	return prometheus.CounterOpts{
		Name: "virtmesh_netplug_dns_queries_total",
		Help: "DNS queries received from guests, by the source of the answer (local, upstream, none) and its response code.",
	}
}

// QueryLabels returns the labels of the counter that Queries describes.
func QueryLabels() []string { return []string{"source", "rcode"} }

// NewMetrics registers the metrics; with a nil registerer they are not exported.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{queries: prometheus.NewCounterVec(Queries(), QueryLabels())}
	if reg != nil {
		if err := reg.Register(m.queries); err != nil {
			return nil, fmt.Errorf("register DNS metrics: %w", err)
		}
	}
	return m, nil
}

// Config configures a server. DefaultConfig sets the bounds.
type Config struct {
	// Address and port to listen on, over UDP and TCP.
	Address netip.AddrPort
	// Interface that queries must come in through; empty for any.
	Interface string
	// Clients is the subnet of the clients. Others get no answer.
	Clients netip.Prefix
	// MaxQueries is how many queries may be in progress at once.
	MaxQueries int
	// UpstreamTimeout bounds the time for one query, over all upstreams.
	UpstreamTimeout time.Duration
	// UDP and TCP are open sockets to go on with, in place of new ones at Address. The server
	// closes them.
	UDP     net.PacketConn
	TCP     net.Listener
	Logger  *slog.Logger
	Metrics *Metrics
}

// DefaultConfig returns a Config with default bounds. The other fields must be set.
func DefaultConfig() Config {
	return Config{MaxQueries: 256, UpstreamTimeout: 3 * time.Second}
}

// Validate returns an error for a field that is missing or out of range.
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
	// sockets are nil where they have no descriptor.
	sockets struct{ udp, tcp syscall.Conn }

	cancel context.CancelFunc // ends queries under way
	wg     sync.WaitGroup
	done   chan struct{}
}

// Start opens the sockets and starts to serve the zone. The server outlives ctx.
func Start(ctx context.Context, cfg Config, zone Zone) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, admit: newAdmission(cfg.MaxQueries), done: make(chan struct{})}
	s.Set(zone)
	if err := s.listen(ctx); err != nil {
		return nil, err
	}
	// The server must outlive the context of the call that starts it.
	queryCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	started := make(chan struct{}, 2)
	for _, srv := range []*mdns.Server{s.udp, s.tcp} {
		srv.Handler = mdns.HandlerFunc(func(w mdns.ResponseWriter, req *mdns.Msg) { s.handleQuery(queryCtx, w, req) })
		srv.NotifyStartedFunc = func() { started <- struct{}{} }
		s.wg.Go(func() {
			if err := srv.ActivateAndServe(); err != nil {
				cfg.Logger.Error("DNS server has ended", "addr", s.addr, "err", err)
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
	pc, ln := s.cfg.UDP, s.cfg.TCP
	var err error
	if pc == nil {
		if pc, err = lc.ListenPacket(ctx, "udp", s.cfg.Address.String()); err != nil {
			return errors.Join(fmt.Errorf("listen for DNS: %w", err), closeListener(ln))
		}
	}
	s.addr = netip.AddrPortFrom(s.cfg.Address.Addr(), uint16(pc.LocalAddr().(*net.UDPAddr).Port))
	if ln == nil {
		if ln, err = lc.Listen(ctx, "tcp", s.addr.String()); err != nil {
			return errors.Join(fmt.Errorf("listen for DNS: %w", err), pc.Close())
		}
	}
	s.sockets.udp, _ = pc.(syscall.Conn)
	s.sockets.tcp, _ = ln.(syscall.Conn)
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

func closeListener(ln net.Listener) error {
	if ln == nil {
		return nil
	}
	return ln.Close()
}

// bindTo returns a function that binds a socket to one interface, so that the server does
// not answer queries which reach its address through other interfaces.
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

// Sockets returns the sockets that the server reads. Who duplicates them can go on with them
// after Close; nil for one without a descriptor.
func (s *Server) Sockets() (udp, tcp syscall.Conn) { return s.sockets.udp, s.sockets.tcp }

// Set replaces what the server answers with. It may be called at any time.
func (s *Server) Set(zone Zone) { s.table.Store(newTable(zone)) }

// Done returns a channel that is closed when the server has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// drainTimeout is how long Close waits for answers of upstream servers.
const drainTimeout = 500 * time.Millisecond

// Close stops the server, gives queries in progress a moment to be answered, cancels those
// that are left, and waits for the server to end.
func (s *Server) Close() error {
	// Queries that are given up are still answered, with a failure, before the sockets close.
	giveUp := time.AfterFunc(drainTimeout, s.cancel)
	defer giveUp.Stop()
	var udp, tcp error
	var both sync.WaitGroup
	both.Go(func() { udp = s.udp.Shutdown() })
	both.Go(func() { tcp = s.tcp.Shutdown() })
	both.Wait()
	s.cancel()
	err := errors.Join(ignoreNotStarted(udp), ignoreNotStarted(tcp))
	<-s.done
	if err != nil {
		return fmt.Errorf("close DNS on %s: %w", s.addr, err)
	}
	return nil
}

// ignoreNotStarted drops the error of shutting down a server that has ended by itself.
func ignoreNotStarted(err error) error {
	if err != nil && err.Error() == "dns: server not started" {
		return nil
	}
	return err
}

// handleQuery answers one query. The library calls it in a goroutine for each query.
func (s *Server) handleQuery(ctx context.Context, w mdns.ResponseWriter, req *mdns.Msg) {
	client, ok := s.client(w.RemoteAddr())
	if !ok {
		return
	}
	resp, source := new(mdns.Msg).SetRcode(req, mdns.RcodeServerFailure), "none"
	if release, ok := s.admit.enter(client); ok {
		resp, source = s.answerQuery(ctx, w.LocalAddr().Network(), req)
		release()
	}
	s.cfg.Metrics.queries.WithLabelValues(source, rcodeName(resp.Rcode)).Inc()
	if w.LocalAddr().Network() == "udp" {
		resp.Truncate(udpSize(req))
	}
	if err := w.WriteMsg(resp); err != nil {
		s.cfg.Logger.Debug("could not send DNS answer", "to", w.RemoteAddr(), "err", err)
	}
}

// client returns the address of the client; ok is false if the client gets no answer. A
// query from port 53 gets none, because two servers could otherwise answer each other in a
// loop.
func (s *Server) client(remote net.Addr) (netip.Addr, bool) {
	a, err := netip.ParseAddrPort(remote.String())
	client := a.Addr().Unmap()
	return client, err == nil && s.cfg.Clients.Contains(client) && a.Port() != 53
}

func (s *Server) answerQuery(ctx context.Context, network string, req *mdns.Msg) (resp *mdns.Msg, source string) {
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
	if resp, ok := t.answerLocally(req); ok {
		return resp, "local"
	}
	if resp := s.forwardQuery(ctx, t.upstreams, network, req); resp != nil {
		return resp, "upstream"
	}
	return fail(mdns.RcodeServerFailure)
}

// forwardQuery asks the upstreams in turn until one answers. It returns nil if none answers
// in time.
func (s *Server) forwardQuery(ctx context.Context, upstreams []string, network string, req *mdns.Msg) *mdns.Msg {
	deadline := time.Now().Add(s.cfg.UpstreamTimeout)
	for i, u := range upstreams {
		// A silent upstream may use only its share of the remaining time.
		share := time.Until(deadline) / time.Duration(len(upstreams)-i)
		each, done := context.WithTimeout(ctx, share)
		client := &mdns.Client{Net: network, UDPSize: mdns.DefaultMsgSize}
		out := req.Copy()
		out.Id = mdns.Id() // A new random ID: the client may have chosen a guessable one.
		resp, _, err := client.ExchangeContext(each, out, u)
		done()
		if err != nil || resp.Rcode == mdns.RcodeServerFailure && i < len(upstreams)-1 {
			s.cfg.Logger.Debug("DNS upstream did not answer", "upstream", u, "err", err)
			continue
		}
		resp.Id = req.Id
		return resp
	}
	return nil
}

// udpSize returns the longest answer, in bytes, that is sent to the client over UDP.
func udpSize(req *mdns.Msg) int {
	if opt := req.IsEdns0(); opt != nil && opt.UDPSize() > mdns.MinMsgSize {
		// Longer answers would be fragmented, and guests' firewalls drop fragments.
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
