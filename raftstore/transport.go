package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// Raft sends a message to an address and never checks which replica answers there. A
// host that was reinstalled under its old name would answer for the replica it
// replaced, with an empty log and no memory of its votes, and acknowledged writes
// could be lost. So each data directory has a Raft ID of its own, and every
// connection between replicas begins with a preface that names the replica it is
// meant for and the sender's group. The other end answers with its own group, so that
// both ends notice if their groups differ.

const (
	prefaceVersion = 2
	prefaceTimeout = 5 * time.Second
	// adoptTimeout is how long a replica that is being added waits to learn its
	// group. The leader's first connection may arrive before the answer to Join.
	adoptTimeout = 2 * time.Second
	// targetMark separates the address from the replica's ID in a Raft address.
	targetMark = "|"
)

// errWrongReplica: the connection is meant for a replica that is no longer at this
// address.
var errWrongReplica = errors.New("connection is meant for another replica")

// nodeOf returns the NodeID that a replica's raft ID begins with.
func nodeOf(id raft.ServerID) string {
	node, _, _ := strings.Cut(string(id), "/")
	return node
}

// raftStream adapts a StreamLayer to raft.StreamLayer. Its Addr is the address that
// peers know, not the one the layer listens on.
type raftStream struct {
	StreamLayer
	addr  string
	id    raft.ServerID
	group *group
	base  context.Context // ends with the store
}

var (
	_ raft.StreamLayer = raftStream{}
	_ net.Addr         = meshAddr("")
)

// Dial implements raft.StreamLayer.
func (s raftStream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	addr, id, ok := strings.Cut(string(address), targetMark)
	if !ok || len(id) > 255 {
		return nil, fmt.Errorf("dial %s: the address does not name a replica", address)
	}
	conn, err := s.StreamLayer.Dial(addr, timeout)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(s.base, func() { _ = conn.Close() })
	defer stop()
	if err := s.preface(conn, id, min(timeout, prefaceTimeout)); err != nil {
		return nil, errors.Join(fmt.Errorf("greet %s: %w", addr, err), conn.Close())
	}
	return conn, nil
}

// preface sends the preface, which names the replica that the connection is meant
// for, and reads the verdict.
func (s raftStream) preface(conn net.Conn, id string, timeout time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	own := s.group.current()
	hello := append([]byte{prefaceVersion, byte(len(id))}, own[:]...)
	if _, err := conn.Write(append(hello, id...)); err != nil {
		return err
	}
	var answer [1 + len(own)]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if verdict(answer[0]) == verdictWelcome {
		return conn.SetDeadline(time.Time{})
	}
	if err := s.group.checkPeer(incarnation(answer[1:])); err != nil {
		return err
	}
	if verdict(answer[0]) == verdictWrongReplica {
		return fmt.Errorf("%w: %s is no longer there", errWrongReplica, id)
	}
	return fmt.Errorf("%w: the peer has not joined yet", errOtherGroup)
}

// verdict is the answer to a preface. The answering replica's incarnation follows it
// on the wire.
type verdict byte

const (
	verdictWelcome verdict = iota + 1
	verdictWrongReplica
	verdictOtherGroup
)

// Accept implements net.Listener. It does not wait for the preface, because one slow
// peer would then hold up the others. The first Read waits for it.
func (s raftStream) Accept() (net.Conn, error) {
	conn, err := s.StreamLayer.Accept()
	if err != nil {
		return nil, err
	}
	return &prefacedConn{Conn: conn, stream: s}, nil
}

// Addr implements net.Listener.
func (s raftStream) Addr() net.Addr { return meshAddr(s.addr) }

// prefacedConn reads the preface before anything else. Only one goroutine may read
// from it.
type prefacedConn struct {
	net.Conn
	stream raftStream
	done   bool
}

// Read implements net.Conn.
func (c *prefacedConn) Read(b []byte) (int, error) {
	if !c.done {
		if err := c.readPreface(); err != nil {
			return 0, err
		}
		c.done = true
	}
	return c.Conn.Read(b)
}

func (c *prefacedConn) readPreface() error {
	if err := c.SetDeadline(time.Now().Add(prefaceTimeout)); err != nil {
		return err
	}
	var head [2 + len(incarnation{})]byte
	if _, err := io.ReadFull(c.Conn, head[:]); err != nil {
		return err
	}
	if head[0] != prefaceVersion {
		return fmt.Errorf("peer speaks version %d, this one %d", head[0], prefaceVersion)
	}
	id := make([]byte, head[1])
	if _, err := io.ReadFull(c.Conn, id); err != nil {
		return err
	}
	v, err := c.stream.judgePreface(string(id), incarnation(head[2:]))
	own := c.stream.group.current()
	if _, werr := c.Write(append([]byte{byte(v)}, own[:]...)); err == nil {
		err = werr
	}
	if err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}

// judgePreface decides whether to accept a connection that is meant for the replica
// id and comes from the group theirs.
func (s raftStream) judgePreface(id string, theirs incarnation) (verdict, error) {
	if id != string(s.id) {
		return verdictWrongReplica, fmt.Errorf("%w: %s, this is %s", errWrongReplica, id, s.id)
	}
	timeout := time.NewTimer(adoptTimeout)
	defer timeout.Stop()
	select {
	case <-s.group.known:
	case <-timeout.C:
	case <-s.base.Done():
	}
	own := s.group.current()
	if theirs == own && own != (incarnation{}) {
		return verdictWelcome, nil
	}
	if err := s.group.checkPeer(theirs); err != nil {
		return verdictOtherGroup, err
	}
	return verdictOtherGroup, fmt.Errorf("%w: this replica belongs to %s, the peer to %s", errOtherGroup, own, theirs)
}

// meshAddr is an address by which peers know a replica.
type meshAddr string

// Network implements net.Addr.
func (meshAddr) Network() string { return "mesh" }

// String implements net.Addr.
func (a meshAddr) String() string { return string(a) }

// meshTransport is Raft's network transport with two additions: it passes the ID of
// the target replica to the stream layer, and it has a second source of messages,
// see announce.go.
type meshTransport struct {
	*raft.NetworkTransport
	rpcs chan raft.RPC
}

var (
	_ raft.Transport   = (*meshTransport)(nil)
	_ raft.WithPreVote = (*meshTransport)(nil)
	_ raft.WithClose   = (*meshTransport)(nil)
)

// Consumer implements raft.Transport.
func (t *meshTransport) Consumer() <-chan raft.RPC { return t.rpcs }

// forwardRPCs passes the messages from the network to Raft.
func (t *meshTransport) forwardRPCs(closing <-chan struct{}) {
	for {
		select {
		case rpc := <-t.NetworkTransport.Consumer():
			select {
			case t.rpcs <- rpc:
			case <-closing:
				return
			}
		case <-closing:
			return
		}
	}
}

// target returns the address that raftStream.Dial takes apart into addr and id.
func target(id raft.ServerID, addr raft.ServerAddress) raft.ServerAddress {
	return addr + targetMark + raft.ServerAddress(id)
}

// AppendEntriesPipeline implements raft.Transport.
func (t *meshTransport) AppendEntriesPipeline(id raft.ServerID, addr raft.ServerAddress) (raft.AppendPipeline, error) {
	return t.NetworkTransport.AppendEntriesPipeline(id, target(id, addr))
}

// AppendEntries implements raft.Transport.
func (t *meshTransport) AppendEntries(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	return t.NetworkTransport.AppendEntries(id, target(id, addr), req, resp)
}

// RequestVote implements raft.Transport.
func (t *meshTransport) RequestVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return t.NetworkTransport.RequestVote(id, target(id, addr), req, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (t *meshTransport) RequestPreVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.NetworkTransport.RequestPreVote(id, target(id, addr), req, resp)
}

// InstallSnapshot implements raft.Transport.
func (t *meshTransport) InstallSnapshot(id raft.ServerID, addr raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return t.NetworkTransport.InstallSnapshot(id, target(id, addr), req, resp, data)
}

// TimeoutNow implements raft.Transport.
func (t *meshTransport) TimeoutNow(id raft.ServerID, addr raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.NetworkTransport.TimeoutNow(id, target(id, addr), req, resp)
}
