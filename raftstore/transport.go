package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Raft sends a message to an address and never checks which replica answers there. A
// host that was reinstalled under its old name would answer for the replica it
// replaced, with an empty log and no memory of its votes, and acknowledged writes
// could be lost. So each data directory has a Raft ID of its own, and every
// raft connection begins with an introduction (greeting.go) that names the replica it is
// meant for. Both ends notice there if their groups differ.

const (
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
	// peerOf returns the host at the other end of a connection, "" if that does not matter.
	peerOf func(net.Conn) string
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
	if peer := s.peerOf(conn); peer != "" && peer != nodeOf(raft.ServerID(id)) {
		return nil, errors.Join(fmt.Errorf("dial %s: %w: %s, this is host %q", addr, errWrongReplica, id, peer), conn.Close())
	}
	stop := context.AfterFunc(s.base, func() { _ = conn.Close() })
	defer stop()
	if err := s.group.meet(conn, raftMagic, id, min(timeout, introductionTimeout)); err != nil {
		return nil, errors.Join(fmt.Errorf("greet %s: %w", addr, err), conn.Close())
	}
	return conn, nil
}

// Accept implements net.Listener. It does not wait for the greeting, because one slow
// peer would then hold up the others. The first Read waits for it.
func (s raftStream) Accept() (net.Conn, error) {
	conn, err := s.StreamLayer.Accept()
	if err != nil {
		return nil, err
	}
	return &greetedConn{Conn: conn, stream: s}, nil
}

// Addr implements net.Listener.
func (s raftStream) Addr() net.Addr { return meshAddr(s.addr) }

// greetedConn answers the greeting before anything else is read. Only one goroutine may
// read from it.
type greetedConn struct {
	net.Conn
	stream raftStream
	done   bool
}

// Read implements net.Conn.
func (c *greetedConn) Read(b []byte) (int, error) {
	if !c.done {
		if err := c.stream.admit(c.Conn); err != nil {
			return 0, err
		}
		c.done = true
	}
	return c.Conn.Read(b)
}

// admit receives the greeting of a caller and answers it.
func (s raftStream) admit(conn net.Conn) error {
	theirs, err := receive(conn, raftMagic)
	if err != nil {
		return err
	}
	v, why := verdictWelcome, s.judge(theirs)
	if why != nil {
		v = verdictRefused
	}
	return errors.Join(why, answer(conn, v, s.group.greeting(), why))
}

// judge returns why a caller is refused.
func (s raftStream) judge(theirs greeting) error {
	if _, err := negotiate(s.group.greeting(), theirs); err != nil {
		return err
	}
	if theirs.target != string(s.id) {
		return fmt.Errorf("%w: %s, this is %s", errWrongReplica, theirs.target, s.id)
	}
	timeout := time.NewTimer(adoptTimeout)
	defer timeout.Stop()
	select {
	case <-s.group.known:
	case <-timeout.C:
	case <-s.base.Done():
	}
	if err := s.group.checkPeer(theirs.group); err != nil {
		return err
	}
	if own := s.group.current(); theirs.group != own || own == (incarnation{}) {
		return fmt.Errorf("%w: this replica belongs to %s, the peer to %s", errOtherGroup, own, theirs.group)
	}
	return s.group.checkLevels(theirs)
}

// meshAddr is an address by which peers know a replica.
type meshAddr string

// Network implements net.Addr.
func (meshAddr) Network() string { return "mesh" }

// String implements net.Addr.
func (a meshAddr) String() string { return string(a) }

// meshTransport is Raft's network transport with these additions: it passes the ID of
// the target replica to the stream layer, it has a second source of messages, see
// announce.go, it may have sent entries before Raft does, see ahead.go, it can abstain
// from elections, see trust_vote.go, it knows who has sent a message, see inbound.go, it
// keeps from Raft what Raft cannot take, see gate.go, and it is silent while the disk hangs,
// see hung.go.
type meshTransport struct {
	*raft.NetworkTransport
	rpcs    chan raft.RPC
	closing <-chan struct{} // closed when the store closes
	stopped <-chan struct{} // closed when Raft has stopped
	ahead   *ahead
	tasks   *tasks

	listener   raft.StreamLayer // of the connections of others, see inbound.go
	config     raft.NetworkTransportConfig
	heartbeats struct {
		sync.Mutex
		handle func(raft.RPC)
	}
	// peerOf returns the host at the other end of a connection, "" if that does not matter.
	peerOf func(net.Conn) string
	// judge returns why a message of a peer must not reach Raft.
	judge func(peer string, message any) error
	// abstains reports whether this replica takes no part in elections.
	abstains func() bool
	// hung returns why a leader must be silent, nil if its disk answers.
	hung func() error
	// behind returns a message as the local Raft can take it, see gate.go.
	behind func(*raft.AppendEntriesRequest) *raft.AppendEntriesRequest
	// installed is called when Raft has a snapshot, or the log that leads to it.
	installed func(logPoint)
}

var (
	_ raft.Transport   = (*meshTransport)(nil)
	_ raft.WithPreVote = (*meshTransport)(nil)
	_ raft.WithClose   = (*meshTransport)(nil)
)

func newMeshTransport(cfg raft.NetworkTransportConfig, tasks *tasks, closing <-chan struct{}) *meshTransport {
	listener := cfg.Stream
	cfg.Stream = noListener{listener, closing}
	under := raft.NewNetworkTransportWithConfig(&cfg)
	return &meshTransport{
		NetworkTransport: under, rpcs: make(chan raft.RPC), closing: closing, tasks: tasks, listener: listener, config: cfg,
		ahead: newAhead(tasks, func(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
			return under.AppendEntries(id, target(id, addr), req, resp)
		}),
	}
}

// Consumer implements raft.Transport.
func (t *meshTransport) Consumer() <-chan raft.RPC { return t.rpcs }

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
	if err := t.hung(); err != nil {
		return err
	}
	return t.ahead.appendEntries(id, addr, req, resp)
}

// RequestVote implements raft.Transport.
func (t *meshTransport) RequestVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if t.abstains() {
		return errAbstains
	}
	return t.NetworkTransport.RequestVote(id, target(id, addr), req, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (t *meshTransport) RequestPreVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if t.abstains() {
		return errAbstains
	}
	return t.NetworkTransport.RequestPreVote(id, target(id, addr), req, resp)
}

// InstallSnapshot implements raft.Transport.
func (t *meshTransport) InstallSnapshot(id raft.ServerID, addr raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if err := t.hung(); err != nil {
		return err
	}
	return t.NetworkTransport.InstallSnapshot(id, target(id, addr), req, resp, data)
}

// TimeoutNow implements raft.Transport.
func (t *meshTransport) TimeoutNow(id raft.ServerID, addr raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.NetworkTransport.TimeoutNow(id, target(id, addr), req, resp)
}
