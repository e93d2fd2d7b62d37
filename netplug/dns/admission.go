package dns

import (
	"net"
	"net/netip"
	"sync"
)

// admission bounds how much is under way at a time, in all and for one client, so that a
// client that asks too much is turned away before it turns others away.
type admission struct {
	mu      sync.Mutex
	total   int
	byPeer  map[netip.Addr]int
	max     int
	maxPeer int
}

func newAdmission(limit int) *admission {
	return &admission{byPeer: map[netip.Addr]int{}, max: limit, maxPeer: max(1, limit/8)}
}

// enter admits one of the client, until release; it does not wait.
func (a *admission) enter(client netip.Addr) (release func(), ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.total >= a.max || a.byPeer[client] >= a.maxPeer {
		return nil, false
	}
	a.total++
	a.byPeer[client]++
	return sync.OnceFunc(func() { a.leave(client) }), true
}

func (a *admission) leave(client netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.total--
	if a.byPeer[client]--; a.byPeer[client] == 0 {
		delete(a.byPeer, client)
	}
}

// boundedListener closes the connections that are not admitted.
type boundedListener struct {
	net.Listener
	admit *admission
}

// Accept waits for a connection that is admitted.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var peer netip.Addr
		if a, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
			peer = a.Addr().Unmap()
		}
		if release, ok := l.admit.enter(peer); ok {
			return &boundedConn{Conn: conn, release: release}, nil
		}
		_ = conn.Close()
	}
}

// boundedConn leaves when it is closed.
type boundedConn struct {
	net.Conn
	release func()
}

// Close closes the connection and lets the next one in.
func (c *boundedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
