package dns

import (
	"net"
	"net/netip"
	"sync"
)

// admission bounds how many queries or connections are in progress, in all and for each
// client, so that a client that sends too many is refused before others are.
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

// enter admits one query or connection of the client. The caller must call release when it
// has ended. enter never waits; ok is false if a bound is reached.
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

// boundedListener closes connections that are not admitted.
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

// boundedConn is an admitted connection. Close releases its place.
type boundedConn struct {
	net.Conn
	release func()
}

// Close closes the connection and releases its place in the admission.
func (c *boundedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
