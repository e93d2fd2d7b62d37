package port

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// Port is an open mesh port. All methods may be called at any time from any goroutine.
type Port struct {
	cfg     Config
	tcp     net.Listener
	metrics *metrics
	gate    *gate
	// strangers counts the open connections without a certificate.
	strangers *sourceLimit

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
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	tcp, err := net.Listen("tcp", cfg.Bind)
	if err != nil {
		m.unregister()
		return nil, fmt.Errorf("open mesh port: %w", err)
	}
	p := &Port{
		cfg:       cfg,
		tcp:       tcp,
		metrics:   m,
		gate:      newGate(cfg.MaxHandshakes, cfg.MaxHandshakesPerSource),
		strangers: newSourceLimit(cfg.MaxStrangersPerSource),
		listeners: make(map[string]*listener),
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.done.Go(func() { p.acceptLoop(ctx) })
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
func (p *Port) API() (net.Listener, error) { return p.listen(protoAPI) }

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

// acceptLoop accepts connections from the kernel until the port is closed.
func (p *Port) acceptLoop(ctx context.Context) {
	for {
		if !p.gate.enter(ctx) {
			return
		}
		raw, err := p.tcp.Accept()
		if err != nil {
			p.gate.leave()
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
		source := sourceOf(raw.RemoteAddr())
		if !p.gate.enterSource(source) {
			p.gate.leave()
			p.metrics.countHandshake(sideServer, protoUnknown, resultRefused, 0)
			_ = raw.Close()
			continue
		}
		p.done.Go(func() {
			defer p.gate.leave()
			defer p.gate.leaveSource(source)
			p.serveConn(ctx, raw)
		})
	}
}

// acceptPause is the wait after a failed accept.
const acceptPause = 50 * time.Millisecond

func sourceOf(addr net.Addr) string {
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	return host
}
