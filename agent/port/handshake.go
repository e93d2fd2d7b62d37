package port

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/gossip/places"
)

// errNoProtocol ends the handshake of a caller that offers no protocol with a listener.
var errNoProtocol = errors.New("no listener for the protocols offered")

// errTooMany ends the handshake of a stranger for whom there is no time, or no place any
// more.
var errTooMany = errors.New("too many strangers call")

// serveConn runs one server handshake and passes the connection to its listener.
func (p *Port) serveConn(ctx context.Context, raw net.Conn, place *places.Place) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, p.cfg.HandshakeTimeout)
	defer cancel()
	setKeepAlive(raw)
	counted := &countedConn{Conn: raw}
	counted.allowance.Store(int64(p.cfg.HandshakeBytes))
	hs := &serverHandshake{port: p, proto: protoUnknown, stranger: place.Stranger()}
	defer func() {
		if cause := recover(); cause != nil {
			p.reportPanic(hs.proto, raw.RemoteAddr().String(), cause)
			_ = counted.Close()
		}
	}()
	conn := tls.Server(counted, &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetCertificate:     p.cfg.Credentials.GetCertificate,
		GetConfigForClient: hs.configFor,
	})
	err := conn.HandshakeContext(ctx)
	if err == nil && hs.listener == nil {
		err = errNoProtocol
	}
	if err != nil {
		result := resultOf(ctx, err)
		if result == resultRefused {
			p.recordRefusal(raw.RemoteAddr(), hs.proto)
		}
		p.metrics.countHandshake(sideServer, hs.proto, result, time.Since(start))
		p.cfg.Logger.Debug("handshake refused", "from", raw.RemoteAddr().String(), "proto", hs.proto, "err", err)
		_ = conn.Close()
		return
	}
	counted.allowance.Store(unlimited)
	place.Leave()
	leave, ok := p.enterStranger(conn, counted)
	if !ok {
		p.refuse(raw, hs.proto)
		return
	}
	if to := p.listener(protoStrangers); to != nil && hs.proto == ProtoAPI && len(conn.ConnectionState().PeerCertificates) == 0 {
		hs.listener = to
	}
	p.metrics.countHandshake(sideServer, hs.proto, resultOK, time.Since(start))
	if certs := conn.ConnectionState().PeerCertificates; len(certs) > 0 {
		leave = p.open.track(counted, certs[0])
	}
	counted.countOpen(p.metrics.openConns(hs.proto), leave)

	var out net.Conn = conn
	if hs.proto != ProtoAPI {
		out = &Conn{Conn: conn, peer: hs.peer}
	}
	if err := hs.listener.deliverConn(ctx, out); err != nil {
		p.metrics.dropped.WithLabelValues(hs.proto).Inc()
		p.cfg.Logger.Debug("connection not accepted", "from", raw.RemoteAddr().String(), "proto", hs.proto, "err", err)
	}
}

// enterStranger gives a place to a connection whose caller showed no certificate, and
// reports whether there is one: an open connection costs memory and a file descriptor for
// as long as the caller keeps it. leave must be called when the connection closes.
func (p *Port) enterStranger(conn *tls.Conn, counted *countedConn) (leave func(), ok bool) {
	if len(conn.ConnectionState().PeerCertificates) > 0 {
		return nil, true
	}
	place, ok := p.strangers.Take(places.AddrOf(conn.RemoteAddr()), 1, func() {
		places.SetAbort(counted.Conn)
		_ = counted.Close()
	})
	return place.Leave, ok
}

// serverHandshake holds the results of one handshake.
type serverHandshake struct {
	port     *Port
	proto    string
	peer     string
	listener *listener
	// stranger says that the caller's address is not that of a host.
	stranger bool
}

// configFor chooses the TLS configuration by the protocols that the caller offers.
func (h *serverHandshake) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	creds := h.port.cfg.Credentials
	h.proto = h.chooseProtocol(hello.SupportedProtos)
	if h.stranger {
		// What follows costs CPU time, so strangers may not have it as often as they like.
		if err := h.port.awaitTurn(hello.Context()); err != nil {
			return nil, fmt.Errorf("%w: %w", errTooMany, err)
		}
	}
	if h.listener = h.port.listener(h.proto); h.listener == nil {
		if len(hello.SupportedProtos) == 0 {
			return nil, errNoProtocol
		}
		// No caller can offer this name, so TLS itself refuses the handshake with the
		// right alert.
		return &tls.Config{GetCertificate: creds.GetCertificate, NextProtos: []string{unspeakable()}}, nil
	}
	cfg := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		GetCertificate:         creds.GetCertificate,
		SessionTicketsDisabled: true,
		NextProtos:             []string{h.proto},
	}
	switch h.proto {
	case ProtoJoin:
	case ProtoAPI:
		cfg.MinVersion = tls.VersionTLS12
		cfg.NextProtos = []string{"h2", "http/1.1"}
		cfg.ClientAuth = tls.VerifyClientCertIfGiven
		cfg.ClientCAs = creds.Roots()
		if people := h.port.cfg.ClientCAs; people != nil {
			cfg.ClientCAs = people(cfg.ClientCAs)
		}
		cfg.VerifyConnection = h.verifyClient
	default:
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
		cfg.ClientCAs = creds.Roots()
		cfg.VerifyConnection = h.verifyPeer
	}
	return cfg, nil
}

// awaitTurn waits until the handshake of a stranger may go on. Those who wait have no
// place in a queue, because a place that its owner has given up would hold up those behind
// it.
func (p *Port) awaitTurn(ctx context.Context) error {
	for !p.pace.Allow() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(turnPoll/2 + rand.N(turnPoll)):
		}
	}
	return nil
}

// turnPoll is how often somebody who waits for his turn looks, on average.
const turnPoll = 20 * time.Millisecond

// chooseProtocol returns the protocol to use for a caller: the first mesh protocol that
// it offers, or the API.
func (h *serverHandshake) chooseProtocol(offered []string) string {
	i := slices.IndexFunc(offered, func(s string) bool { return strings.HasPrefix(s, meshPrefix) })
	if i < 0 {
		return ProtoAPI
	}
	if h.port.listener(offered[i]) == nil {
		return protoUnknown // the caller chose the name, so it must not become a metric label
	}
	return offered[i]
}

// verifyPeer checks, after TLS has verified the chain, that the peer is an admitted
// host.
func (h *serverHandshake) verifyPeer(state tls.ConnectionState) error {
	node, err := identity.NodeOf(state.PeerCertificates[0])
	if err != nil {
		return err
	}
	if err := h.port.admitPeer(Peer{Node: node, Key: identity.PinOf(state.PeerCertificates[0]), Proto: h.proto}); err != nil {
		return err
	}
	h.peer = node.Name
	return nil
}

// verifyClient checks an API client after TLS has verified its chain, if it showed one.
// A host may do everything in the API, so it is checked as in a connection between
// hosts, and by the CAs that hosts trust.
func (h *serverHandshake) verifyClient(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 || !identity.ClaimsNode(state.PeerCertificates[0]) {
		return nil
	}
	_, err := identity.VerifyNode(state.PeerCertificates, h.port.cfg.Credentials.Roots(), time.Now(), x509.ExtKeyUsageClientAuth)
	if err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	return h.verifyPeer(state)
}

func (p *Port) admitPeer(peer Peer) error {
	if p.cfg.Admit == nil {
		return nil
	}
	if err := p.cfg.Admit(peer); err != nil {
		return fmt.Errorf("host %s is not admitted: %w", peer.Node.Name, err)
	}
	return nil
}

// resultOf returns the metrics label for a handshake error.
func resultOf(ctx context.Context, err error) string {
	var remote *net.OpError
	var verify *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.Is(err, errTooMany), errors.Is(context.Cause(ctx), errTooMany):
		return resultRefused
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(ctx.Err(), context.DeadlineExceeded):
		return resultTimeout
	case errors.Is(err, errNoProtocol):
		return resultProtocol
	case errors.As(err, &verify), errors.As(err, &unknown), errors.Is(err, identity.ErrNotNode):
		return resultAuth
	case errors.As(err, &remote) && remote.Op == "remote error":
		return resultRemote // the other side sent an alert: it refused our handshake
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, context.Canceled):
		return resultClosed
	}
	return resultError
}
