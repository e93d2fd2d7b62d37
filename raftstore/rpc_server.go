package raftstore

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"time"

	"github.com/hashicorp/raft"
)

// maxRequestsPerConn bounds how many requests of a peer are in progress on one
// connection.
const maxRequestsPerConn = 4096

// serveRPC accepts connections of other replicas until the listener is closed.
func (s *Store) serveRPC() {
	for n := 0; ; {
		conn, err := s.cfg.RPC.Accept()
		if err == nil {
			n = 0
			if !s.startServing(conn, func() { s.serveConn(conn) }) {
				_ = conn.Close()
			}
			continue
		}
		if s.base.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		n++
		s.log.Warn("could not accept a store connection", "err", err)
		select {
		case <-time.After(min(time.Duration(n)*10*time.Millisecond, time.Second)):
		case <-s.closing:
			return
		}
	}
}

// startServing runs serve, which serves a peer's connection, in a goroutine. If serve
// panics, the connection ends, and its requests have an unknown outcome; the replica and
// the other connections go on. It returns false if the store is closed.
func (s *Store) startServing(conn net.Conn, serve func()) bool {
	return s.tasks.start(func() {
		defer func() {
			if cause := recover(); cause != nil {
				s.metrics.panics.Inc()
				s.log.Error("the handler of a store connection panicked", "peer", conn.RemoteAddr(), "panic", cause, "stack", string(debug.Stack()))
				_ = conn.Close()
			}
		}()
		serve()
	})
}

// serveConn reads requests from a connection and answers each when it is done.
func (s *Store) serveConn(conn net.Conn) {
	stop := context.AfterFunc(s.base, func() { _ = conn.Close() })
	defer stop()
	theirs, err := s.group.admit(conn)
	if err != nil {
		s.log.Debug("store connection refused", "peer", conn.RemoteAddr(), "err", err)
		_ = conn.Close()
		return
	}
	r := bufio.NewReaderSize(conn, connBuffer)
	out := newOutbox()
	slots := make(chan struct{}, maxRequestsPerConn)
	gone := make(chan struct{}) // closed when the writer has ended and frees no more slots
	if !s.startServing(conn, func() {
		defer close(gone)
		_ = out.writeLoop(conn, func() { <-slots })
		_ = conn.Close()
	}) {
		_ = conn.Close()
		return
	}
	defer out.close()
	for {
		f, err := readFrame(r)
		if err == nil {
			err = s.group.checkPeer(theirs.group) // this replica may have joined a group since the introduction
		}
		if err != nil {
			_ = conn.Close()
			return
		}
		why := s.group.answers(opcode(f.code), theirs)
		if why == nil && s.takeMessage(conn, f) {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-gone:
			return
		case <-s.closing:
			return
		}
		if why != nil {
			out.send(frame{f.id, uint8(statusOf(why)), []byte(why.Error())})
			continue
		}
		s.dispatchRequest(conn, f, out)
	}
}

// takeMessage takes a frame that is not answered. It returns false for a request. Only the
// leader says what is committed.
func (s *Store) takeMessage(from net.Conn, f frame) bool {
	switch opcode(f.code) {
	case opCommitted:
		_, leader := s.raft.LeaderWithID()
		if peer := s.peerOf(from); peer != "" && peer != nodeOf(leader) {
			break
		}
		if a, err := decodeAnnouncement(f.payload); err == nil {
			s.announced.put(a)
		}
	case opStatements:
		s.putStatements(f.payload)
	default:
		return false
	}
	return true
}

// dispatchRequest starts a request. It blocks only when the proposal queue is full,
// which slows the peer down.
func (s *Store) dispatchRequest(conn net.Conn, f frame, out *outbox) {
	answer := func(payload []byte, err error) {
		if err != nil {
			payload = []byte(err.Error())
		}
		out.send(frame{f.id, uint8(statusOf(err)), payload})
	}
	if opcode(f.code) == opCommit {
		s.serveCommit(conn, f.payload, answer)
		return
	}
	if opcode(f.code) == opTerm {
		answer(s.serveTerm(f.payload)) // at once, because readers wait for it
		return
	}
	if !s.startServing(conn, func() { answer(s.serveRequest(conn, opcode(f.code), f.payload)) }) {
		answer(nil, ErrClosed)
	}
}

// serveCommit proposes a txn for another replica.
func (s *Store) serveCommit(from net.Conn, envelope []byte, answer func([]byte, error)) {
	if err := s.Err(); err != nil {
		answer(nil, err)
		return
	}
	if len(envelope) > s.cfg.Limits.MaxTxnBytes {
		answer(nil, fmt.Errorf("%w: %d bytes, the leader's limit is %d", ErrTooLarge, len(envelope), s.cfg.Limits.MaxTxnBytes))
		return
	}
	// An envelope that cannot be decoded would halt every replica.
	t, _, err := decodeTxn(envelope)
	if err != nil {
		answer(nil, fmt.Errorf("%w: %w", ErrInvalidTxn, err))
		return
	}
	if err := t.refuseReserved(); err != nil {
		answer(nil, err)
		return
	}
	if err := s.checkConstraints(envelope); err != nil {
		answer(nil, err)
		return
	}
	if err := s.mayChange(from, t); err != nil {
		answer(nil, err)
		return
	}
	q := &proposal{envelope: envelope, settle: func(o outcome) {
		if o.err != nil {
			answer(nil, o.err)
			return
		}
		answer(appendOutcome(nil, &o), nil)
	}}
	if err := s.proposer.submit(s.base, q); err != nil {
		answer(nil, fmt.Errorf("%w: %w", errNotLeader, err))
	}
}

// mayChange returns why the host at the other end of a connection must not make a change.
func (s *Store) mayChange(from net.Conn, t *Txn) error {
	if s.cfg.MayChange == nil {
		return nil
	}
	peer := s.peerOf(from)
	if peer == "" {
		return nil // peers are believed who they are
	}
	if _, err := s.termReady(); err != nil {
		return err // its copy may be too old to judge
	}
	return s.cfg.MayChange(s, peer, *t)
}

// serveRequest carries out any other request.
func (s *Store) serveRequest(from net.Conn, op opcode, payload []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.base, s.cfg.Timing.RPC)
	defer cancel()
	if err := s.refuseFollowing(op); err != nil {
		return nil, err
	}
	switch op {
	case opReadIndex:
		r, err := s.served.joinRound(ctx)
		if err != nil {
			return nil, err
		}
		return binary.LittleEndian.AppendUint64(nil, r.index), nil
	case opStats:
		st, err := s.stats()
		if err != nil {
			return nil, err
		}
		return json.Marshal(st)
	case opPull:
		return s.servePull(ctx, from, payload)
	case opPullSnapshot:
		return s.serveSnapshot(ctx, from, payload)
	case opStatement:
		return s.serveStatement(ctx, payload)
	case opJoin:
		return s.serveJoin(ctx, from, payload)
	default:
		return s.serveLeaderRequest(ctx, s.peerOf(from), op, payload)
	}
}

// checkCaller refuses a caller that speaks for a replica of another host.
func (s *Store) checkCaller(from net.Conn, id string) error {
	return refuseOther(s.peerOf(from), id)
}

// refuseOther refuses a host that speaks for a replica, or a lease, of another one. The host is
// "" if it is this one, or if peers are believed who they are.
func refuseOther(host, id string) error {
	if host != "" && host != nodeOf(raft.ServerID(id)) {
		return fmt.Errorf("%w: host %q speaks for the replica %q of another host", ErrInvalidTxn, host, id)
	}
	return nil
}
