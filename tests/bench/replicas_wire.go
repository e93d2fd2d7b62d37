package main

import (
	"net"
	"sync/atomic"
	"time"

	"virtmesh/raftstore"
)

// traffic counts bytes.
type traffic struct{ sent, received atomic.Int64 }

// hostLayer is a stream layer of a replica. It counts what passes over its connections, and
// is silent once its host is off.
type hostLayer struct {
	raftstore.StreamLayer
	traffic *traffic
	off     *atomic.Bool
}

var _ raftstore.StreamLayer = (*hostLayer)(nil)

// Accept implements raftstore.StreamLayer.
func (l *hostLayer) Accept() (net.Conn, error) {
	conn, err := l.StreamLayer.Accept()
	return hostConn{conn, l}, err
}

// Dial implements raftstore.StreamLayer.
func (l *hostLayer) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	conn, err := l.StreamLayer.Dial(addr, timeout)
	return hostConn{conn, l}, err
}

// hostConn is a connection of a host.
type hostConn struct {
	net.Conn
	layer *hostLayer
}

// Write implements net.Conn.
func (c hostConn) Write(b []byte) (int, error) {
	if c.layer.off.Load() {
		return len(b), nil
	}
	n, err := c.Conn.Write(b)
	c.layer.traffic.sent.Add(int64(n))
	return n, err
}

// Read implements net.Conn. What arrives at a host that is off is lost.
func (c hostConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	for err == nil && c.layer.off.Load() {
		n, err = c.Conn.Read(b)
	}
	c.layer.traffic.received.Add(int64(n))
	return n, err
}
