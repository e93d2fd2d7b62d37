package port

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"virtmesh/gossip/places"
)

// Port is an open mesh port. All methods may be called at any time from any goroutine.
type Port struct {
	cfg     Config
	tcp     net.Listener
	metrics *metrics
	// handshakes and strangers are the places of running handshakes, and of open
	// connections without a certificate.
	handshakes, strangers *places.Table
	// pace is that of strangers' handshakes.
	pace     *rate.Limiter
	refusals *places.RefusalLog
	open     openConns

	cancel context.CancelFunc
	done   sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	listeners map[string]*listener
}

// ErrProtocol is returned for a protocol name that does not begin with the mesh prefix,
// or that already has a listener.
var ErrProtocol = errors.New("mesh protocol")

// New opens the port. It refuses callers whose protocol has no listener yet.
func New(cfg Config) (*Port, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p, err := newPort(cfg)
	if err != nil {
		return nil, err
	}
	if p.tcp, err = net.Listen("tcp", cfg.Bind); err != nil {
		p.metrics.unregister()
		return nil, fmt.Errorf("open mesh port: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.done.Go(func() { p.acceptLoop(ctx) })
	return p, nil
}

// newPort returns a port that listens nowhere yet.
func newPort(cfg Config) (*Port, error) {
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	p := &Port{
		cfg:       cfg,
		metrics:   m,
		pace:      rate.NewLimiter(rate.Limit(cfg.StrangerHandshakes), cfg.StrangerHandshakes),
		refusals:  places.NewRefusalLog(cfg.Logger),
		listeners: make(map[string]*listener),
	}
	p.handshakes, p.strangers = places.New(cfg.Handshakes, p.isHostAddress), places.New(cfg.WithoutCertificate, p.isHostAddress)
	return p, nil
}

// Addr returns the advertised address, or the bound one if none is advertised.
func (p *Port) Addr() net.Addr {
	if p.cfg.Advertise == "" {
		return p.tcp.Addr()
	}
	return advertised(p.cfg.Advertise)
}

// advertised is an address as the configuration has it; it may contain a DNS name.
type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }

// Listen returns the listener of a mesh protocol. Its connections are *Conn with a
// complete handshake and a verified peer. Each protocol has at most one listener.
func (p *Port) Listen(proto string) (net.Listener, error) {
	if !strings.HasPrefix(proto, meshPrefix) {
		return nil, fmt.Errorf("%w %q: the name must begin with %q", ErrProtocol, proto, meshPrefix)
	}
	return p.listen(proto)
}

// API returns the listener of the API. Its connections are *tls.Conn with a complete
// handshake, so an http.Server without TLSConfig serves HTTP/2 and HTTP/1.1 on it. The
// PeerCertificates in a request's TLS state are verified; there may be none.
func (p *Port) API() (net.Listener, error) { return p.listen(ProtoAPI) }

// Strangers returns the listener of those connections to the API whose callers showed no
// certificate. While nobody listens there, the listener of API gets them.
func (p *Port) Strangers() (net.Listener, error) { return p.listen(protoStrangers) }

func (p *Port) listen(proto string) (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, net.ErrClosed
	}
	if p.listeners[proto] != nil {
		return nil, fmt.Errorf("%w %q: already has a listener", ErrProtocol, proto)
	}
	l := &listener{
		port: p, proto: proto,
		conns: make(chan net.Conn, p.cfg.Backlog), done: make(chan struct{}),
	}
	p.listeners[proto] = l
	return l, nil
}

func (p *Port) listener(proto string) *listener {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.listeners[proto]
}

func (p *Port) removeListener(l *listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listeners[l.proto] == l {
		delete(p.listeners, l.proto)
	}
}

// Close stops accepting, aborts running handshakes, closes every listener and waits for
// the port's goroutines. Connections that were already accepted from a listener stay
// open.
func (p *Port) Close() error {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	var open []*listener
	for _, l := range p.listeners {
		open = append(open, l)
	}
	p.mu.Unlock()

	var err error
	if first {
		p.cancel()
		err = p.tcp.Close()
		for _, l := range open {
			_ = l.Close()
		}
	}
	p.done.Wait()
	if first {
		p.metrics.unregister()
	}
	if err != nil {
		return fmt.Errorf("close mesh port: %w", err)
	}
	return nil
}

// acceptLoop accepts connections from the kernel until the port is closed. It waits for
// nobody, so that those who hold places keep nobody else waiting.
func (p *Port) acceptLoop(ctx context.Context) {
	for {
		raw, err := p.tcp.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			// Most likely the process has no free file descriptor: wait until it has.
			p.cfg.Logger.Error("mesh port cannot accept", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(acceptPause):
			}
			continue
		}
		p.admit(ctx, raw)
	}
}

// admit starts the handshake of a connection, if there is a place for it.
func (p *Port) admit(ctx context.Context, raw net.Conn) {
	ctx, cancel := context.WithCancelCause(ctx)
	place, ok := p.handshakes.Take(places.AddrOf(raw.RemoteAddr()), 1, func() {
		places.SetAbort(raw)
		cancel(errTooMany)
	})
	if !ok {
		cancel(nil)
		p.refuse(raw, protoUnknown)
		return
	}
	p.done.Go(func() {
		defer cancel(nil)
		defer place.Leave()
		p.serveConn(ctx, raw, place)
	})
}

// refuse cuts off a connection that gets no place, and counts it.
func (p *Port) refuse(raw net.Conn, proto string) {
	places.Abort(raw)
	p.metrics.countHandshake(sideServer, proto, resultRefused, 0)
	p.recordRefusal(raw.RemoteAddr(), proto)
}

func (p *Port) recordRefusal(from net.Addr, proto string) {
	p.refusals.Record("too many callers of the mesh port: one was refused", "from", from.String(), "proto", proto)
}

// acceptPause is the wait after a failed accept.
const acceptPause = 50 * time.Millisecond

// isHostAddress reports whether a caller at an address may be a host.
func (p *Port) isHostAddress(addr netip.Addr) bool { return p.cfg.Known == nil || p.cfg.Known(addr) }
