package raftstore

import (
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// raftStream gives a StreamLayer the shape raft wants, and the address that
// peers know this replica by instead of the one it listens on.
type raftStream struct {
	StreamLayer
	addr string
}

var (
	_ raft.StreamLayer = raftStream{}
	_ net.Addr         = meshAddr("")
)

// Dial implements raft.StreamLayer.
func (s raftStream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.StreamLayer.Dial(string(address), timeout)
}

// Addr implements net.Listener.
func (s raftStream) Addr() net.Addr { return meshAddr(s.addr) }

// meshAddr is an address of the mesh.
type meshAddr string

// Network implements net.Addr.
func (meshAddr) Network() string { return "mesh" }

// String implements net.Addr.
func (a meshAddr) String() string { return string(a) }
