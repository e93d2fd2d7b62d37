package raftstoretest

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"virtmesh/raftstore"
)

// ErrUnreachable is returned when dialling a host that is cut off or does not listen.
var ErrUnreachable = errors.New("raftstoretest: host is unreachable")

// Network connects hosts in memory. Hosts can be cut off, partitioned, silenced and
// healed. A cut or a partition breaks the connections across it; Silence breaks none.
type Network struct {
	mu        sync.Mutex
	silent    map[string]bool                    // hosts whose traffic is lost in both directions
	healed    chan struct{}                      // closed by the next Heal
	listeners map[string]*Layer                  // by kind and address
	cut       map[string]bool                    // hosts that reach no other host
	groups    map[string]int                     // partition that a host is in
	lost      map[[2]string]bool                 // directed, by the addresses of sender and receiver
	slow      map[[2]string]func() time.Duration // the same
	conns     map[*pipe]struct{}
	sent      map[string]int64 // bytes, by the address of the sender
}

// NewNetwork returns a network without hosts.
func NewNetwork() *Network {
	return &Network{
		silent:    make(map[string]bool),
		healed:    make(chan struct{}),
		listeners: make(map[string]*Layer),
		cut:       make(map[string]bool),
		groups:    make(map[string]int),
		lost:      make(map[[2]string]bool),
		slow:      make(map[[2]string]func() time.Duration),
		conns:     make(map[*pipe]struct{}),
		sent:      make(map[string]int64),
	}
}

// Sent returns how many bytes a host has sent.
func (n *Network) Sent(addr string) int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent[addr]
}

// Dialled returns how many connections are open that a host has opened.
func (n *Network) Dialled(addr string) (open int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for p := range n.conns {
		if p.a == addr {
			open++
		}
	}
	return open
}

// Layer is a StreamLayer of one host. Its kind separates the protocols of a host.
type Layer struct {
	n        *Network
	kind     string
	addr     string
	incoming chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

var _ raftstore.StreamLayer = (*Layer)(nil)

// Listen returns a layer of a kind at an address. An earlier layer of the same kind
// and address must have been closed.
func (n *Network) Listen(kind, addr string) *Layer {
	l := &Layer{n: n, kind: kind, addr: addr, incoming: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[kind+" "+addr] = l
	return l
}

// Accept implements net.Listener.
func (l *Layer) Accept() (net.Conn, error) {
	select {
	case c := <-l.incoming:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *Layer) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *Layer) Addr() net.Addr { return address(l.addr) }

// Dial implements raftstore.StreamLayer.
func (l *Layer) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	l.n.mu.Lock()
	peer := l.n.listeners[l.kind+" "+addr]
	ok := peer != nil && l.n.linked(l.addr, addr)
	silent, healed := l.n.loses(l.addr, addr) || l.n.loses(addr, l.addr), l.n.healed
	l.n.mu.Unlock()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	if silent {
		select {
		case <-timer.C:
		case <-healed:
		case <-l.closed:
		}
		return nil, fmt.Errorf("dial %s: timed out", addr)
	}
	if !ok {
		return nil, fmt.Errorf("dial %s: %w", addr, ErrUnreachable)
	}
	near, far := net.Pipe()
	p := &pipe{n: l.n, a: l.addr, b: addr, near: near, far: far, closed: make(chan struct{})}
	select {
	case peer.incoming <- &end{Conn: far, p: p, from: addr, to: l.addr}:
	case <-peer.closed:
		return nil, fmt.Errorf("dial %s: %w", addr, ErrUnreachable)
	case <-timer.C:
		return nil, fmt.Errorf("dial %s: timed out", addr)
	}
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	if !l.n.linked(l.addr, addr) {
		p.close()
		return nil, fmt.Errorf("dial %s: %w", addr, ErrUnreachable)
	}
	l.n.conns[p] = struct{}{}
	return &end{Conn: near, p: p, from: l.addr, to: addr}, nil
}

func (n *Network) linked(a, b string) bool {
	return a == b || (!n.cut[a] && !n.cut[b] && n.groups[a] == n.groups[b])
}

// Cut separates a host from all others.
func (n *Network) Cut(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[addr] = true
	n.breakLocked()
}

// Partition splits the hosts into groups. Hosts of different groups do not reach each
// other. The hosts that are not named form a group of their own.
func (n *Network) Partition(groups ...[]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.groups)
	for i, g := range groups {
		for _, addr := range g {
			n.groups[addr] = i + 1
		}
	}
	n.breakLocked()
}

// Silence makes a host fall silent, as a power loss does: its connections stay open
// but nothing passes over them, and dialling it takes until the timeout.
func (n *Network) Silence(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silent[addr] = true
}

// Lose loses, or no longer loses, everything that one host sends to another. What comes
// the other way still arrives, but no connection can be opened. Connections that have
// lost data break when it ends.
func (n *Network) Lose(from, to string, lost bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if lost {
		n.lost[[2]string{from, to}] = true
		return
	}
	delete(n.lost, [2]string{from, to})
	n.breakLossy(func(p *pipe) bool { return !n.loses(p.a, p.b) && !n.loses(p.b, p.a) })
}

// Slow makes what one host sends to another take the time that delay returns, in order;
// nil for none. Everything that is under way is kept, however much it is.
func (n *Network) Slow(from, to string, delay func() time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if delay == nil {
		delete(n.slow, [2]string{from, to})
	} else {
		n.slow[[2]string{from, to}] = delay
	}
}

// latency returns how long what one host sends to another now takes.
func (n *Network) latency(from, to string) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if delay := n.slow[[2]string{from, to}]; delay != nil {
		return delay()
	}
	return 0
}

// loses reports whether what one host sends to another is lost. The caller holds n.mu.
func (n *Network) loses(from, to string) bool {
	return n.silent[from] || n.silent[to] || n.lost[[2]string{from, to}]
}

// breakLossy breaks the connections that have lost data and that ok holds for. The caller
// holds n.mu.
func (n *Network) breakLossy(ok func(*pipe) bool) {
	for p := range n.conns {
		if p.lossy && ok(p) {
			p.close()
			delete(n.conns, p)
		}
	}
}

// Heal undoes every cut, partition, loss, delay and silence. It breaks the connections that lost
// data meanwhile.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
	clear(n.groups)
	clear(n.silent)
	clear(n.lost)
	clear(n.slow)
	close(n.healed)
	n.healed = make(chan struct{})
	n.breakLossy(func(*pipe) bool { return true })
}

// Hangup closes all connections of a host, as an operating system does at the end of a
// process.
func (n *Network) Hangup(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for p := range n.conns {
		if p.a == addr || p.b == addr {
			p.close()
			delete(n.conns, p)
		}
	}
}

// lose counts data that one end of p writes to the other now, and reports whether it is
// lost.
func (n *Network) lose(p *pipe, from, to string, size int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent[from] += int64(size)
	lost := n.loses(from, to)
	p.lossy = p.lossy || lost
	return lost
}

// breakLocked closes the connections whose ends no longer reach each other. The
// caller holds n.mu.
func (n *Network) breakLocked() {
	for p := range n.conns {
		if !n.linked(p.a, p.b) {
			p.close()
			delete(n.conns, p)
		}
	}
}

// pipe is a connection between two hosts.
type pipe struct {
	n         *Network
	a, b      string
	near, far net.Conn
	lossy     bool // data was lost; guarded by n.mu
	closed    chan struct{}
	once      sync.Once
}

func (p *pipe) close() {
	p.once.Do(func() { close(p.closed) })
	_ = p.near.Close()
	_ = p.far.Close()
}

// end is one side of a pipe.
type end struct {
	net.Conn
	p        *pipe
	from, to string

	mu      sync.Mutex
	late    []parcel // written and not yet delivered, in order
	pumping bool     // a goroutine delivers them
}

// parcel is data on a slow link.
type parcel struct {
	data []byte
	due  time.Time
}

// PeerAddr returns the address of the host at the other end of a connection, "" if it was
// not dialled over a Network.
func PeerAddr(conn net.Conn) string {
	if e, ok := conn.(*end); ok {
		return e.to
	}
	return ""
}

// Write implements net.Conn.
func (e *end) Write(b []byte) (int, error) {
	if e.p.n.lose(e.p, e.from, e.to, len(b)) {
		return len(b), nil
	}
	if e.delay(b) {
		return len(b), nil
	}
	return e.Conn.Write(b)
}

// delay keeps data to deliver it later, if the link is slow or earlier data is still under
// way, and reports whether it did.
func (e *end) delay(b []byte) bool {
	takes := e.p.n.latency(e.from, e.to)
	e.mu.Lock()
	defer e.mu.Unlock()
	if takes == 0 && !e.pumping {
		return false
	}
	due := time.Now().Add(takes)
	if n := len(e.late); n > 0 && due.Before(e.late[n-1].due) {
		due = e.late[n-1].due
	}
	e.late = append(e.late, parcel{slices.Clone(b), due})
	if !e.pumping {
		e.pumping = true
		go e.pump()
	}
	return true
}

// pump delivers what is under way. An error breaks the connection.
func (e *end) pump() {
	for {
		e.mu.Lock()
		if len(e.late) == 0 {
			e.pumping = false
			e.mu.Unlock()
			return
		}
		next := e.late[0]
		e.mu.Unlock()
		select {
		case <-time.After(time.Until(next.due)):
		case <-e.p.closed:
		}
		_, err := e.Conn.Write(next.data)
		e.mu.Lock()
		e.late = e.late[1:]
		if err != nil {
			e.late = nil
			_ = e.Conn.Close() // what follows must not take the place of what is missing
		}
		e.mu.Unlock()
	}
}

// Close implements net.Conn.
func (e *end) Close() error {
	e.p.n.mu.Lock()
	delete(e.p.n.conns, e.p)
	e.p.n.mu.Unlock()
	e.p.once.Do(func() { close(e.p.closed) })
	return e.Conn.Close()
}

type address string

// Network implements net.Addr.
func (address) Network() string { return "memory" }

// String implements net.Addr.
func (a address) String() string { return string(a) }
