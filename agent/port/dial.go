package port

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"time"

	"virtmesh/agent/identity"
)

// PeerError is returned by Dial and DialHost when a different host answered than the
// wanted one.
type PeerError struct {
	Addr, Want, Got string
}

// Error names the address, the host that answered and the host that was wanted.
func (e *PeerError) Error() string {
	return fmt.Sprintf("host %q answered at %s, want host %q", e.Got, e.Addr, e.Want)
}

// Dial connects to the host at a mesh address, "host:port", with one mesh protocol. The
// other side has shown a host certificate of the mesh; if Config.HostAt knows which
// host is at addr, it is that host. Dial returns before the other side has checked our
// own certificate: if it refuses the certificate, the first read fails.
func (p *Port) Dial(ctx context.Context, proto, addr string) (*Conn, error) {
	var host string
	if p.cfg.HostAt != nil {
		host = p.cfg.HostAt(addr)
	}
	return p.DialHost(ctx, proto, host, addr)
}

// DialHost is Dial for a host that the caller knows by name; "" accepts any host of
// the mesh.
func (p *Port) DialHost(ctx context.Context, proto, host, addr string) (*Conn, error) {
	if !strings.HasPrefix(proto, meshPrefix) {
		return nil, fmt.Errorf("%w %q: the name must begin with %q", ErrProtocol, proto, meshPrefix)
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.HandshakeTimeout)
	defer cancel()
	start := time.Now()
	conn, err := p.dial(ctx, proto, host, addr)
	if err != nil {
		p.metrics.countHandshake(sideClient, proto, resultOf(ctx, err), 0)
		return nil, fmt.Errorf("dial %s at %s: %w", proto, addr, err)
	}
	p.metrics.countHandshake(sideClient, proto, resultOK, time.Since(start))
	return conn, nil
}

func (p *Port) dial(ctx context.Context, proto, host, addr string) (*Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	setKeepAlive(raw)
	counted := &countedConn{Conn: raw}
	counted.allowance.Store(unlimited)
	var peer string
	conn := tls.Client(counted, &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{proto},
		GetClientCertificate:   p.cfg.Credentials.GetClientCertificate,
		SessionTicketsDisabled: true,
		// A host is identified by the subject of its certificate, not by a DNS name or
		// an address, so VerifyConnection does the whole verification.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			peer, err = p.verifyServer(state.PeerCertificates, proto, host, addr)
			return err
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != proto {
		_ = conn.Close()
		return nil, fmt.Errorf("%w: the other side speaks %q", ErrProtocol, got)
	}
	counted.countOpen(nil, p.open.track(counted, conn.ConnectionState().PeerCertificates[0]))
	return &Conn{Conn: conn, peer: peer}, nil
}

func (p *Port) verifyServer(chain []*x509.Certificate, proto, want, addr string) (string, error) {
	got, err := identity.VerifyNode(chain, p.cfg.Credentials.Roots(), time.Now(), x509.ExtKeyUsageServerAuth)
	if err != nil {
		return "", &tls.CertificateVerificationError{UnverifiedCertificates: chain, Err: err}
	}
	if want != "" && got.Name != want {
		return "", &PeerError{Addr: addr, Want: want, Got: got.Name}
	}
	return got.Name, p.admitPeer(Peer{Node: got, Key: identity.PinOf(chain[0]), Proto: proto, Dialled: true})
}

// StreamLayer is one mesh protocol in the form that raftstore needs: a listener that
// can also dial.
type StreamLayer struct {
	net.Listener
	port  *Port
	proto string
}

// StreamLayer starts listening on a mesh protocol and returns it as a StreamLayer.
func (p *Port) StreamLayer(proto string) (*StreamLayer, error) {
	l, err := p.Listen(proto)
	if err != nil {
		return nil, err
	}
	return &StreamLayer{Listener: l, port: p, proto: proto}, nil
}

// Dial connects to the host at a mesh address. timeout bounds the call; the port's
// handshake timeout applies if it is shorter, or if timeout is zero or less.
func (s *StreamLayer) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	ctx := context.Background()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	conn, err := s.port.Dial(ctx, s.proto, addr)
	if err != nil {
		return nil, err // a nil *Conn must not become a non-nil net.Conn
	}
	return conn, nil
}
