package dhcp

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/prometheus/client_golang/prometheus"
)

// maxMessage is the longest message a server reads. Longer ones than an Ethernet frame
// carries are not sent by real clients.
const maxMessage = 1500

// Metrics counts what servers do. Servers share one.
type Metrics struct {
	requests *prometheus.CounterVec
}

// NewMetrics registers the metrics; a nil registerer counts for no one.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "virtmesh_netplug_dhcp_requests_total",
		Help: "DHCP messages received from guests, by what became of them.",
	}, []string{"outcome"})}
	if reg != nil {
		if err := reg.Register(m.requests); err != nil {
			return nil, fmt.Errorf("register DHCP metrics: %w", err)
		}
	}
	return m, nil
}

// Config says where a server serves.
type Config struct {
	// Interface to serve; requests from elsewhere are not heard.
	Interface string
	// Listen opens the socket; nil stands for the DHCP server port of Interface.
	Listen  func(iface string) (net.PacketConn, error)
	Logger  *slog.Logger
	Metrics *Metrics
}

// Validate reports what is missing.
func (c Config) Validate() error {
	switch {
	case c.Interface == "":
		return errors.New("dhcp: Interface is missing")
	case c.Logger == nil:
		return errors.New("dhcp: Logger is missing")
	case c.Metrics == nil:
		return errors.New("dhcp: Metrics is missing")
	}
	return nil
}

// Server answers the requests of one interface until it is closed.
type Server struct {
	cfg  Config
	conn net.PacketConn
	pool atomic.Pointer[lookup]
	done chan struct{}
}

// Start opens the socket and serves the pool.
func Start(cfg Config, pool Pool) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Listen == nil {
		cfg.Listen = listen
	}
	conn, err := cfg.Listen(cfg.Interface)
	if err != nil {
		return nil, fmt.Errorf("listen for DHCP on %s: %w", cfg.Interface, err)
	}
	s := &Server{cfg: cfg, conn: conn, done: make(chan struct{})}
	s.Set(pool)
	go s.serve()
	return s, nil
}

func listen(iface string) (net.PacketConn, error) {
	return server4.NewIPv4UDPConn(iface, &net.UDPAddr{IP: net.IPv4zero, Port: dhcpv4.ServerPort})
}

// Set replaces what the server answers with. It may be called at any time.
func (s *Server) Set(pool Pool) { s.pool.Store(newLookup(pool)) }

// Done is closed when the server has ended, after Close or because its interface went.
func (s *Server) Done() <-chan struct{} { return s.done }

// Close ends the server and waits for it.
func (s *Server) Close() error {
	err := s.conn.Close()
	<-s.done
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close DHCP on %s: %w", s.cfg.Interface, err)
	}
	return nil
}

func (s *Server) serve() {
	defer close(s.done)
	buf := make([]byte, maxMessage)
	for {
		n, _, err := s.conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.cfg.Logger.Error("DHCP server ends", "interface", s.cfg.Interface, "err", err)
			_ = s.conn.Close()
			return
		}
		s.cfg.Metrics.requests.WithLabelValues(string(s.handle(buf[:n]))).Inc()
	}
}

// handle answers one message. What guests can trigger at will is logged at debug level
// only, so that they cannot fill the host's log.
func (s *Server) handle(packet []byte) Outcome {
	log := s.cfg.Logger.With("interface", s.cfg.Interface)
	req, err := dhcpv4.FromBytes(packet)
	if err != nil {
		log.Debug("DHCP message cannot be read", "err", err)
		return Malformed
	}
	pool := s.pool.Load()
	resp, outcome, err := pool.reply(req)
	if err != nil {
		log.Debug("DHCP answer cannot be made", "mac", req.ClientHWAddr, "err", err)
		return Failed
	}
	log.Debug("DHCP message", "mac", req.ClientHWAddr, "type", req.MessageType(), "outcome", outcome)
	if resp == nil {
		return outcome
	}
	if _, err := s.conn.WriteTo(resp.ToBytes(), replyTo(pool.Gateway, req, resp)); err != nil {
		log.Debug("DHCP answer cannot be sent", "mac", req.ClientHWAddr, "err", err)
		return Failed
	}
	return outcome
}

// replyTo is where an answer goes: to the client's address if it has one to be reached
// at, else to all on the interface (RFC 2131, section 4.1). A client cannot have answers
// sent outside its own subnet.
func replyTo(gateway netip.Prefix, req, resp *dhcpv4.DHCPv4) *net.UDPAddr {
	to := net.IPv4bcast
	client, ok := netip.AddrFromSlice(req.ClientIPAddr.To4())
	if ok && gateway.Contains(client) && resp.MessageType() != dhcpv4.MessageTypeNak {
		to = req.ClientIPAddr
	}
	return &net.UDPAddr{IP: to, Port: dhcpv4.ClientPort}
}
