package port

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Conn is a connection of a mesh protocol, after its handshake. It hides that it is a
// *tls.Conn, so that net/http speaks HTTP/1.1 on it and ignores its ALPN protocol.
type Conn struct {
	*tls.Conn
	peer string
}

var _ net.Conn = (*Conn)(nil)

// Peer returns the verified name of the host at the other end. It is "" on the
// accepting side of ProtoJoin, where the caller has no certificate.
func (c *Conn) Peer() string { return c.peer }

// PeerOf returns the verified name of the host at the other end of a connection of a mesh
// protocol, and "" for any other connection.
func PeerOf(conn net.Conn) string {
	if c, ok := conn.(*Conn); ok {
		return c.Peer()
	}
	return ""
}

// unlimited is the allowance of a connection after its handshake.
const unlimited = -1

// errAllowance ends a handshake whose caller sends too much.
var errAllowance = errors.New("the handshake has too many bytes")

// countedConn keeps the gauge of open connections correct, and the count of connections
// without a certificate. It wraps the raw connection below TLS, so that the API
// listener can return a plain *tls.Conn.
type countedConn struct {
	net.Conn
	// allowance is how many bytes may still be read, or unlimited.
	allowance atomic.Int64
	open      prometheus.Gauge
	leave     func()
	start     sync.Once
	end       sync.Once
}

// countOpen counts the connection as open, by the gauge unless it is nil; leave is called
// when it closes.
func (c *countedConn) countOpen(open prometheus.Gauge, leave func()) {
	counted := false
	c.start.Do(func() {
		c.open, c.leave, counted = open, leave, true
		if open != nil {
			open.Inc()
		}
	})
	if !counted {
		leave()
	}
}

// Read implements net.Conn. A connection is read by one goroutine at a time.
func (c *countedConn) Read(b []byte) (int, error) {
	left := c.allowance.Load()
	if left == unlimited {
		return c.Conn.Read(b)
	}
	if left == 0 {
		return 0, errAllowance
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), left)])
	c.allowance.Store(left - int64(n))
	return n, err
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.end.Do(func() {
		// If the connection closes before countOpen, it must never be counted.
		c.start.Do(func() {})
		if c.open != nil {
			c.open.Dec()
		}
		if c.leave != nil {
			c.leave()
		}
	})
	return c.Conn.Close()
}

// setKeepAlive configures TCP keepalive, so that a dead peer is detected in less than a
// minute even on an idle connection.
func setKeepAlive(raw net.Conn) {
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4,
		})
	}
}
