package port

import (
	"crypto/x509"
	"maps"
	"sync"

	"virtmesh/gossip/places"
)

// openConns are the open connections, accepted and dialled, whose other side has shown a
// certificate. Its methods may be called concurrently.
type openConns struct {
	mu     sync.Mutex
	certOf map[*countedConn]*x509.Certificate
}

// track adds a connection, and returns what takes it out again. It may be taken out before
// or after it is closed.
func (o *openConns) track(conn *countedConn, cert *x509.Certificate) (forget func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.certOf == nil {
		o.certOf = map[*countedConn]*x509.Certificate{}
	}
	o.certOf[conn] = cert
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.certOf, conn)
	}
}

func (o *openConns) list() map[*countedConn]*x509.Certificate {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.certOf)
}

// CutOff closes at once every open connection of the port, accepted or dialled, for whose
// certificate ended returns an error, and returns how many. ended gets the certificate that
// the other side showed when the connection was made; it must not block. A handshake judges
// a certificate only once, and a watch, a console or a stream can then stay open for as long
// as its client likes.
func (p *Port) CutOff(ended func(*x509.Certificate) error) int {
	cut := 0
	for conn, cert := range p.open.list() {
		err := ended(cert)
		if err == nil {
			continue
		}
		cut++
		p.cfg.Logger.Info("a connection is cut off", "of", cert.Subject.CommonName, "from", conn.RemoteAddr().String(), "because", err)
		places.SetAbort(conn.Conn) // what waits to be sent is dropped
		_ = conn.Close()
	}
	return cut
}
