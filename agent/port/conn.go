package port

import (
	"crypto/tls"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Conn is a connection of a mesh protocol, after its handshake. It is not a *tls.Conn,
// so that net/http speaks HTTP/1.1 on it and does not look at its ALPN.
type Conn struct {
	*tls.Conn
	peer string
}

var _ net.Conn = (*Conn)(nil)

// Peer returns the verified name of the host at the other end; "" for ProtoJoin on the
// side that accepted, where the caller has no certificate.
func (c *Conn) Peer() string { return c.peer }

// countedConn keeps the gauge of open connections right, and the number of strangers. It
// stands below TLS, so that the API listener can return a plain *tls.Conn.
type countedConn struct {
	net.Conn
	open  prometheus.Gauge
	leave func()
	start sync.Once
	end   sync.Once
}

// opened counts the connection; leave is called when it closes.
func (c *countedConn) opened(open prometheus.Gauge, leave func()) {
	counted := false
	c.start.Do(func() {
		c.open, c.leave, counted = open, leave, true
		open.Inc()
	})
	if !counted {
		leave()
	}
}

func (c *countedConn) Close() error {
	c.end.Do(func() {
		// Taken by a connection that closes before it was counted: it never will be.
		c.start.Do(func() {})
		if c.open != nil {
			c.open.Dec()
			c.leave()
		}
	})
	return c.Conn.Close()
}

// tune makes a dead peer known in well under a minute even on an idle connection.
func tune(raw net.Conn) {
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4,
		})
	}
}
