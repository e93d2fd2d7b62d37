package gossip

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"virtmesh/gossip/places"
)

// errTransportClosed is returned for traffic after Shutdown.
var errTransportClosed = errors.New("gossip transport is closed")

// traffic counts bytes.
type traffic struct {
	packetsIn, packetsOut, packetBytesIn, packetBytesOut atomic.Uint64
	streamBytesIn, streamBytesOut                        atomic.Uint64
}

// transport stands between memberlist and the network. It counts bytes, passes packets to
// the taps, and passes nothing to memberlist that was not made with a key of the mesh. It
// tracks every open stream, so that Shutdown can end the
// goroutines that memberlist leaves running on them.
type transport struct {
	inner    memberlist.NodeAwareTransport
	traffic  traffic
	in, out  *tap
	gate     *gatekeeper
	label    []byte              // the mesh's name
	seen     func(from net.Addr) // called for every received packet made with one of the keys
	packets  chan *memberlist.Packet
	streams  chan net.Conn
	stop     chan struct{}
	pumps    sync.WaitGroup
	readers  sync.WaitGroup // of streams that memberlist has not got yet
	shutdown sync.Once

	mu     sync.Mutex
	closed bool
	conns  map[*countedConn]struct{}
	users  sync.WaitGroup // one for each stream in use
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(inner memberlist.Transport, mesh string, gate *gatekeeper, in, out *tap, seen func(net.Addr)) *transport {
	aware, ok := inner.(memberlist.NodeAwareTransport)
	if !ok {
		aware = addressOnly{inner}
	}
	t := &transport{
		inner: aware, label: []byte(mesh), gate: gate, in: in, out: out, seen: seen,
		packets: make(chan *memberlist.Packet, 64),
		streams: make(chan net.Conn),
		stop:    make(chan struct{}),
		conns:   make(map[*countedConn]struct{}),
	}
	t.pumps.Add(2)
	go t.pumpPackets()
	go t.pumpStreams()
	return t
}

// addressOnly adapts a transport that does not use node names.
type addressOnly struct{ memberlist.Transport }

func (t addressOnly) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

func (t addressOnly) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

func (t *transport) pumpPackets() {
	defer t.pumps.Done()
	for {
		select {
		case p := <-t.inner.PacketCh():
			t.traffic.packetsIn.Add(1)
			t.traffic.packetBytesIn.Add(uint64(len(p.Buf)))
			if !t.gate.takePacket(p.From, func() bool { return t.in.readPacket(p.Buf) }) {
				continue
			}
			t.seen(p.From)
			select {
			case t.packets <- p:
			case <-t.stop:
				return
			}
		case <-t.stop:
			return
		}
	}
}

func (t *transport) pumpStreams() {
	defer t.pumps.Done()
	for {
		select {
		case c := <-t.inner.StreamCh():
			if conn, err := t.trackStream(c); err == nil {
				t.checkStream(conn)
			}
		case <-t.stop:
			return
		}
	}
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (t *transport) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	return t.inner.FinalAdvertiseAddr(ip, port)
}

// WriteTo implements memberlist.Transport.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress implements memberlist.NodeAwareTransport. The error is the
// inner transport's own: memberlist looks at its type.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	select {
	case <-t.stop:
		return time.Time{}, errTransportClosed
	default:
	}
	t.out.readPacket(b)
	t.traffic.packetsOut.Add(1)
	t.traffic.packetBytesOut.Add(uint64(len(b)))
	return t.inner.WriteToAddress(b, a)
}

// PacketCh implements memberlist.Transport.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout implements memberlist.Transport.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	select {
	case <-t.stop:
		return nil, errTransportClosed
	default:
	}
	c, err := t.inner.DialAddressTimeout(a, timeout)
	if err != nil {
		return nil, err
	}
	conn, err := t.trackStream(c)
	if err != nil {
		return nil, err
	}
	return t.newCheckedConn(conn, false, false), nil
}

// Shutdown implements memberlist.Transport. It closes the network and every open
// stream. waitStreams then waits for the users of the streams.
func (t *transport) Shutdown() error {
	var err error
	t.shutdown.Do(func() {
		// The pumps run until the inner transport is down, because its listeners
		// may be waiting to pass on what they have read.
		err = t.inner.Shutdown()
		close(t.stop)
		t.pumps.Wait()
		t.mu.Lock()
		t.closed = true
		for c := range t.conns {
			_ = c.Conn.Close()
		}
		t.mu.Unlock()
	})
	return err
}

// waitStreams returns when the users of all streams have closed them.
func (t *transport) waitStreams() {
	t.readers.Wait()
	t.users.Wait()
}

// trackStream wraps a stream, so that Shutdown can close it.
func (t *transport) trackStream(c net.Conn) (*countedConn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		_ = c.Close()
		return nil, errTransportClosed
	}
	conn := &countedConn{Conn: c, t: t}
	t.conns[conn] = struct{}{}
	t.users.Add(1)
	return conn, nil
}

// countedConn counts its bytes and unregisters from the transport when it is closed.
type countedConn struct {
	net.Conn
	t      *transport
	closed sync.Once
}

// from returns the address of the other end.
func (c *countedConn) from() netip.Addr { return places.AddrOf(c.RemoteAddr()) }

// abort closes the stream so that the kernel keeps nothing of it.
func (c *countedConn) abort() {
	places.SetAbort(c.Conn)
	_ = c.Close()
}

// Read implements net.Conn.
func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.t.traffic.streamBytesIn.Add(uint64(n))
	return n, err
}

// Write implements net.Conn. A stream is of no use after a failed write, and memberlist
// forgets to close one whose first write fails, that of the mesh's name.
func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.t.traffic.streamBytesOut.Add(uint64(n))
	if err != nil {
		_ = c.Close()
	}
	return n, err
}

func (c *countedConn) Close() error {
	err := c.Conn.Close()
	c.closed.Do(func() {
		c.t.mu.Lock()
		delete(c.t.conns, c)
		c.t.mu.Unlock()
		c.t.users.Done()
	})
	return err
}
