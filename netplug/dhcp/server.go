package dhcp

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/prometheus/client_golang/prometheus"
)

// maxMessage is the longest message that a server reads, in bytes. Real clients send no
// message that is longer than an Ethernet frame.
const maxMessage = 1500

// Metrics counts requests. All servers share one Metrics.
type Metrics struct {
	requests *prometheus.CounterVec
}

// Requests describes the counter of requests.
func Requests() prometheus.CounterOpts {
	return prometheus.CounterOpts{
		Name: "virtmesh_netplug_dhcp_requests_total",
		Help: "DHCP messages received from guests, by outcome.",
	}
}

// RequestLabels returns the labels of the counter that Requests describes.
func RequestLabels() []string { return []string{"outcome"} }

// NewMetrics registers the metrics; with a nil registerer they are not exported.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{requests: prometheus.NewCounterVec(Requests(), RequestLabels())}
	if reg != nil {
		if err := reg.Register(m.requests); err != nil {
			return nil, fmt.Errorf("register DHCP metrics: %w", err)
		}
	}
	return m, nil
}

// Config configures a server.
type Config struct {
	// Interface is the interface to serve. The server receives nothing from others.
	Interface string
	// Listen opens the socket; nil opens the DHCP server port on Interface.
	Listen  func(iface string) (net.PacketConn, error)
	Logger  *slog.Logger
	Metrics *Metrics
}

// Validate returns an error for a missing field.
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
	// closing says that the loop is to end without an error.
	closing atomic.Bool
	pool    atomic.Pointer[lookup]
	done    chan struct{}
}

// Start opens the socket and starts to serve the pool.
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
	go s.serveLoop()
	return s, nil
}

func listen(iface string) (net.PacketConn, error) {
	return server4.NewIPv4UDPConn(iface, &net.UDPAddr{IP: net.IPv4zero, Port: dhcpv4.ServerPort})
}

// Set replaces what the server answers with. It may be called at any time.
func (s *Server) Set(pool Pool) { s.pool.Store(newLookup(pool)) }

// Done returns a channel that is closed when the server has ended, after Close or because
// its interface was removed.
func (s *Server) Done() <-chan struct{} { return s.done }

// Socket returns the socket that the server reads, nil if it has no descriptor. Who
// duplicates it can go on with it after Close.
func (s *Server) Socket() syscall.Conn {
	conn, _ := s.conn.(syscall.Conn)
	return conn
}

// Close ends the server after the request in progress, if any, and waits for it.
func (s *Server) Close() error {
	s.closing.Store(true)
	// Wakes the loop. Closing the socket would cost a request that was read its answer.
	if err := s.conn.SetReadDeadline(time.Unix(1, 0)); err == nil {
		<-s.done
	}
	err := s.conn.Close()
	<-s.done
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close DHCP on %s: %w", s.cfg.Interface, err)
	}
	return nil
}

func (s *Server) serveLoop() {
	defer close(s.done)
	buf := make([]byte, maxMessage)
	for {
		n, _, err := s.conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) || err != nil && s.closing.Load() {
			return
		}
		if err != nil {
			s.cfg.Logger.Error("DHCP server has ended", "interface", s.cfg.Interface, "err", err)
			_ = s.conn.Close()
			return
		}
		s.cfg.Metrics.requests.WithLabelValues(string(s.handlePacket(buf[:n]))).Inc()
	}
}

// handlePacket answers one message. It logs only at debug level, because guests can trigger
// these messages at will and must not be able to fill the host's log.
func (s *Server) handlePacket(packet []byte) Outcome {
	log := s.cfg.Logger.With("interface", s.cfg.Interface)
	req, err := dhcpv4.FromBytes(packet)
	if err != nil {
		log.Debug("could not parse DHCP message", "err", err)
		return Malformed
	}
	pool := s.pool.Load()
	resp, outcome, err := pool.reply(req)
	if err != nil {
		log.Debug("could not build DHCP answer", "mac", req.ClientHWAddr, "err", err)
		return Failed
	}
	log.Debug("DHCP message", "mac", req.ClientHWAddr, "type", req.MessageType(), "outcome", outcome)
	if resp == nil {
		return outcome
	}
	if _, err := s.conn.WriteTo(resp.ToBytes(), replyTo(pool.Gateway, req, resp)); err != nil {
		log.Debug("could not send DHCP answer", "mac", req.ClientHWAddr, "err", err)
		return Failed
	}
	return outcome
}

// replyTo returns the address to which an answer is sent: the client's address if it has
// one, otherwise the broadcast address (RFC 2131, section 4.1). A client cannot make the
// server send answers outside its own subnet.
func replyTo(gateway netip.Prefix, req, resp *dhcpv4.DHCPv4) *net.UDPAddr {
	to := net.IPv4bcast
	client, ok := netip.AddrFromSlice(req.ClientIPAddr.To4())
	if ok && gateway.Contains(client) && resp.MessageType() != dhcpv4.MessageTypeNak {
		to = req.ClientIPAddr
	}
	return &net.UDPAddr{IP: to, Port: dhcpv4.ClientPort}
}
