// Package gossiptest simulates a network and a mesh of members on it, in one process,
// for tests and benchmarks. It waits only on channels and timers of package time, so it
// runs in a testing/synctest bubble, where simulated time costs only the CPU time of
// the work done in it.
//
// The network can lose, duplicate and delay packets and be partitioned, and its hosts can
// lose power or be starved of CPU. The package does not simulate bandwidth.
package gossiptest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// port is the gossip port of every simulated host.
const port = 7946

// socketBuffer is how many unread packets a host keeps. Further packets are lost, as in
// a UDP socket.
const socketBuffer = 4096

// Network is a simulated network. Its methods are safe for concurrent use.
type Network struct {
	mu    sync.RWMutex
	hosts map[string]*Host // by address
	names map[string]*Host
	parts map[*Host]int
	cuts  map[[2]string]bool    // directed, by the names of sender and receiver
	links map[[2]string]Weather // the same

	loss  atomic.Uint64 // lost packets per million
	quiet atomic.Bool   // see quiet.go
	// rumours counts the packets with rumours that were sent while the network was
	// quiet.
	rumours atomic.Uint64

	// Packets and Bytes count what was sent, including what was lost.
	Packets, Bytes atomic.Uint64
	// Overflows counts the packets lost because a host did not read them in time.
	Overflows atomic.Uint64
}

// NewNetwork returns a network without hosts or faults.
func NewNetwork() *Network {
	return &Network{
		hosts: make(map[string]*Host),
		names: make(map[string]*Host),
		parts: make(map[*Host]int),
		cuts:  make(map[[2]string]bool),
		links: make(map[[2]string]Weather),
	}
}

// SetLoss makes the network lose the given share (0 to 1) of all packets. TCP repeats a
// lost packet of a stream, which is simulated as a delay: a second for the first packet,
// 200 ms for a later one.
func (n *Network) SetLoss(share float64) { n.loss.Store(uint64(share * 1e6)) }

func (n *Network) lost() bool {
	loss := n.loss.Load()
	return loss > 0 && rand.Uint64N(1e6) < loss
}

// Host adds a host.
func (n *Network) Host(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := len(n.hosts) + 1
	return n.add(name, net.IPv4(10, byte(i>>16), byte(i>>8), byte(i)))
}

// Restart adds a host at the address of an earlier one of the name, which must have been
// killed or shut down.
func (n *Network) Restart(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.names[name]
	h := n.add(name, old.ip)
	n.parts[h] = n.parts[old]
	delete(n.parts, old)
	return h
}

// add adds a host at an address. The caller holds n.mu.
func (n *Network) add(name string, ip net.IP) *Host {
	h := &Host{
		net: n, name: name, ip: ip,
		packets: make(chan *memberlist.Packet, socketBuffer),
		streams: make(chan net.Conn),
		down:    make(chan struct{}),
	}
	h.addr = fmt.Sprintf("%s:%d", h.ip, port)
	n.hosts[h.addr] = h
	n.names[name] = h
	return h
}

// Kill cuts a host off for good without any message to others, as a power loss does.
func (n *Network) Kill(name string) { n.byName(name).dead.Store(true) }

// Partition puts the named hosts into part p; all hosts begin in part 0. Hosts
// in different parts cannot reach each other.
func (n *Network) Partition(p int, names ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range names {
		n.parts[n.names[name]] = p
	}
}

// Cut loses, or no longer loses, everything that one host sends to another. What comes
// the other way still arrives.
func (n *Network) Cut(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if cut {
		n.cuts[[2]string{from, to}] = true
	} else {
		delete(n.cuts, [2]string{from, to})
	}
}

// Starve takes the CPU away from a host, or gives it back. A starved host neither reads
// nor sends. Its timers still fire, which is worse than in reality, where they would be
// late as well.
func (n *Network) Starve(name string, starved bool) { n.byName(name).starve(starved) }

func (n *Network) byName(name string) *Host {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.names[name]
}

// reach returns the host at addr, or nil if packets from h do not get there.
func (n *Network) reach(h *Host, addr string) *Host {
	n.mu.RLock()
	defer n.mu.RUnlock()
	to := n.hosts[addr]
	if to == nil || h.dead.Load() || to.dead.Load() || n.parts[h] != n.parts[to] || n.cuts[[2]string{h.name, to.name}] {
		return nil
	}
	return to
}

// Host is one host's connection to the network.
type Host struct {
	net     *Network
	name    string
	ip      net.IP
	addr    string
	dead    atomic.Bool
	packets chan *memberlist.Packet
	streams chan net.Conn
	down    chan struct{}
	once    sync.Once

	mu      sync.Mutex
	starved chan struct{} // closed when the CPU comes back; nil while the host has the CPU
	held    []*memberlist.Packet
}

var _ memberlist.NodeAwareTransport = (*Host)(nil)

// Addr returns the host:port of the host.
func (h *Host) Addr() string { return h.addr }

func (h *Host) starve(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if on == (h.starved != nil) {
		return
	}
	if on {
		h.starved = make(chan struct{})
		return
	}
	close(h.starved)
	h.starved = nil
	for _, p := range h.held {
		h.enqueue(p)
	}
	h.held = nil
}

func (h *Host) isStarved() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.starved != nil
}

// awaitCPU blocks while the host is starved.
func (h *Host) awaitCPU() {
	h.mu.Lock()
	starved := h.starved
	h.mu.Unlock()
	if starved == nil {
		return
	}
	select {
	case <-starved:
	case <-h.down:
	}
}

func (h *Host) deliver(p *memberlist.Packet) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.starved == nil {
		h.enqueue(p)
		return
	}
	if len(h.held) < socketBuffer {
		h.held = append(h.held, p)
	} else {
		h.net.Overflows.Add(1)
	}
}

func (h *Host) enqueue(p *memberlist.Packet) {
	select {
	case h.packets <- p:
	default:
		h.net.Overflows.Add(1)
	}
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (h *Host) FinalAdvertiseAddr(string, int) (net.IP, int, error) { return h.ip, port, nil }

// WriteTo implements memberlist.Transport.
func (h *Host) WriteTo(b []byte, addr string) (time.Time, error) {
	h.awaitCPU()
	now := time.Now()
	h.net.Packets.Add(1)
	h.net.Bytes.Add(uint64(len(b)))
	if h.net.quiet.Load() {
		if b = h.net.hush(b); b == nil {
			return now, nil
		}
	}
	if to := h.net.reach(h, addr); to != nil && !h.net.lost() {
		h.net.carry(h, to, &memberlist.Packet{Buf: b, From: hostAddr(h.addr), Timestamp: now})
	}
	return now, nil
}

// WriteToAddress implements memberlist.NodeAwareTransport.
func (h *Host) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return h.WriteTo(b, a.Addr)
}

// PacketCh implements memberlist.Transport.
func (h *Host) PacketCh() <-chan *memberlist.Packet { return h.packets }

// StreamCh implements memberlist.Transport.
func (h *Host) StreamCh() <-chan net.Conn { return h.streams }

// errTimeout is returned when dialling a host that does not answer.
var errTimeout = errors.New("i/o timeout")

// DialTimeout implements memberlist.Transport.
func (h *Host) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	h.awaitCPU()
	giveUp := time.NewTimer(timeout)
	defer giveUp.Stop()
	to := h.net.reach(h, addr)
	if to != nil && h.net.reach(to, h.addr) == nil {
		to = nil // the answer is lost
	}
	if asked, answered := !h.net.lost(), !h.net.lost(); !asked || !answered { // SYN, or its answer
		select {
		case <-time.After(time.Second):
		case <-giveUp.C:
			return nil, errTimeout
		case <-h.down:
			return nil, net.ErrClosed
		}
	}
	if to == nil {
		select {
		case <-giveUp.C:
			return nil, errTimeout
		case <-h.down:
			return nil, net.ErrClosed
		}
	}
	ours, theirs := net.Pipe()
	a := &stream{ours, h, to}
	b := &stream{theirs, to, h}
	var err error
	select {
	case to.streams <- b:
		return a, nil
	case <-giveUp.C:
		err = errTimeout
	case <-to.down:
		err = errors.New("connection refused")
	case <-h.down:
		err = net.ErrClosed
	}
	_ = ours.Close()
	return nil, err
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (h *Host) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return h.DialTimeout(a.Addr, timeout)
}

// Shutdown implements memberlist.Transport.
func (h *Host) Shutdown() error {
	h.once.Do(func() { close(h.down) })
	return nil
}

// hostAddr is a host:port as a net.Addr.
type hostAddr string

// Network implements net.Addr.
func (hostAddr) Network() string { return "simulated" }

// String implements net.Addr.
func (a hostAddr) String() string { return string(a) }

// stream is one end of a connection. If the network loses a packet, the written data
// arrives late, as if TCP had sent it again.
type stream struct {
	net.Conn
	local, remote *Host
}

// RemoteAddr implements net.Conn.
func (s *stream) RemoteAddr() net.Addr { return hostAddr(s.remote.addr) }

// Write implements net.Conn.
func (s *stream) Write(b []byte) (int, error) {
	n := s.local.net
	n.Bytes.Add(uint64(len(b)))
	delay := n.weather(s.local.name, s.remote.name).delay()
	if n.lost() {
		delay += 200 * time.Millisecond
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-s.local.down:
			return 0, net.ErrClosed
		}
	}
	return s.Conn.Write(b)
}
