package raftstore

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Raft's network transport does not tell from which connection a message has come. So each
// connection that another host's Raft has opened gets a transport of its own, and what comes
// out of it was said by that host, see judge.go.

// acceptConns serves the connections of other hosts until the listener is closed.
func (t *meshTransport) acceptConns() {
	for n := 0; ; {
		conn, err := t.listener.Accept()
		if err == nil {
			n = 0
			if !t.tasks.start(func() { t.serveConn(conn) }) {
				_ = conn.Close()
			}
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		n++
		select {
		case <-time.After(min(time.Duration(n)*10*time.Millisecond, time.Second)):
		case <-t.closing:
			return
		}
	}
}

// serveConn passes what comes on a connection to Raft.
func (t *meshTransport) serveConn(conn net.Conn) {
	only := newOnlyConn(conn, t.listener.Addr())
	cfg := t.config
	cfg.Stream = only
	in := raft.NewNetworkTransportWithConfig(&cfg)
	defer func() { _ = in.Close() }() // which closes only
	peer := t.peerOf(conn)
	in.SetHeartbeatHandler(func(rpc raft.RPC) { t.forwardHeartbeat(peer, rpc) })
	for {
		select {
		case rpc := <-in.Consumer():
			t.forward(peer, rpc)
		case <-only.closed:
			return
		case <-t.closing:
			return
		}
	}
}

// forward passes a message of a peer to Raft.
func (t *meshTransport) forward(peer string, rpc raft.RPC) {
	if err := t.judge(peer, rpc.Command); err != nil {
		refuse(rpc, err)
		return
	}
	t.pass(rpc)
}

// forwardHeartbeat passes a message to Raft that must not wait behind others.
func (t *meshTransport) forwardHeartbeat(peer string, rpc raft.RPC) {
	if err := t.judge(peer, rpc.Command); err != nil {
		refuse(rpc, err)
		return
	}
	t.heartbeats.Lock()
	handle := t.heartbeats.handle
	t.heartbeats.Unlock()
	if handle == nil {
		t.pass(rpc)
		return
	}
	handle(rpc)
}

// refuse answers a message that does not reach Raft.
func refuse(rpc raft.RPC, err error) {
	if rpc.Reader != nil {
		_, _ = io.Copy(io.Discard, rpc.Reader) // whatever comes, the connection's reader sees it next
	}
	rpc.Respond(nil, err)
}

// SetHeartbeatHandler implements raft.Transport.
func (t *meshTransport) SetHeartbeatHandler(handle func(raft.RPC)) {
	t.heartbeats.Lock()
	defer t.heartbeats.Unlock()
	t.heartbeats.handle = handle
}

// onlyConn is a raft.StreamLayer that accepts one connection and dials nobody.
type onlyConn struct {
	net.Conn
	addr     net.Addr
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

var _ raft.StreamLayer = (*onlyConn)(nil)

func newOnlyConn(conn net.Conn, addr net.Addr) *onlyConn {
	c := &onlyConn{Conn: conn, addr: addr, accepted: make(chan net.Conn, 1), closed: make(chan struct{})}
	c.accepted <- c
	return c
}

// Accept implements net.Listener.
func (c *onlyConn) Accept() (net.Conn, error) {
	select {
	case conn := <-c.accepted:
		return conn, nil
	case <-c.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener and net.Conn.
func (c *onlyConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Addr implements net.Listener.
func (c *onlyConn) Addr() net.Addr { return c.addr }

// Dial implements raft.StreamLayer.
func (*onlyConn) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) {
	return nil, net.ErrClosed
}

// noListener is a raft.StreamLayer that only dials.
type noListener struct {
	raft.StreamLayer
	closing <-chan struct{}
}

// Accept implements net.Listener.
func (l noListener) Accept() (net.Conn, error) {
	<-l.closing
	return nil, net.ErrClosed
}
