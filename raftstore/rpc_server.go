package raftstore

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// maxRequestsPerConn bounds what a peer may have under way on one connection.
const maxRequestsPerConn = 4096

// serve accepts connections of other replicas until the listener is closed.
func (s *Store) serve() {
	for n := 0; ; {
		conn, err := s.cfg.RPC.Accept()
		if err == nil {
			n = 0
			if !s.tasks.start(func() { s.serveConn(conn) }) {
				_ = conn.Close()
			}
			continue
		}
		if s.base.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		n++
		s.log.Warn("accept store connection", "err", err)
		select {
		case <-time.After(min(time.Duration(n)*10*time.Millisecond, time.Second)):
		case <-s.closing:
			return
		}
	}
}

// serveConn reads requests and answers them as they are done.
func (s *Store) serveConn(conn net.Conn) {
	stop := context.AfterFunc(s.base, func() { _ = conn.Close() })
	defer stop()
	r := bufio.NewReaderSize(conn, 64<<10)
	theirs, err := s.group.greet(conn, r)
	if err != nil {
		s.log.Debug("store connection", "peer", conn.RemoteAddr(), "err", err)
		_ = conn.Close()
		return
	}
	out := newOutbox()
	slots := make(chan struct{}, maxRequestsPerConn)
	gone := make(chan struct{}) // nobody frees slots any more
	if !s.tasks.start(func() {
		defer close(gone)
		_ = out.run(conn, func() { <-slots })
		_ = conn.Close()
	}) {
		_ = conn.Close()
		return
	}
	defer out.close()
	for {
		f, err := readFrame(r)
		if err == nil {
			err = s.group.meet(theirs) // this replica may have joined one since
		}
		if err != nil {
			_ = conn.Close()
			return
		}
		if opcode(f.code) == opCommitted {
			if a, err := decodeAnnouncement(f.payload); err == nil {
				s.announced.put(a)
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-gone:
			return
		case <-s.closing:
			return
		}
		s.dispatch(f, out)
	}
}

// dispatch starts a request. Only a full proposal queue makes it block, which
// holds back the peer.
func (s *Store) dispatch(f frame, out *outbox) {
	answer := func(payload []byte, err error) {
		if err != nil {
			payload = []byte(err.Error())
		}
		out.send(frame{f.id, uint8(statusOf(err)), payload})
	}
	if opcode(f.code) == opCommit {
		s.serveCommit(f.payload, answer)
		return
	}
	if opcode(f.code) == opTerm {
		answer(s.serveTerm(f.payload)) // at once, for readers wait
		return
	}
	if !s.tasks.start(func() { answer(s.serveRequest(opcode(f.code), f.payload)) }) {
		answer(nil, ErrClosed)
	}
}

// serveCommit proposes a txn for another replica.
func (s *Store) serveCommit(envelope []byte, answer func([]byte, error)) {
	if err := s.Err(); err != nil {
		answer(nil, err)
		return
	}
	if len(envelope) > s.cfg.Limits.MaxTxnBytes {
		answer(nil, fmt.Errorf("%w: %d bytes, the leader's limit is %d", ErrTooLarge, len(envelope), s.cfg.Limits.MaxTxnBytes))
		return
	}
	// What cannot be decoded would halt every replica.
	if _, _, err := decodeTxn(envelope); err != nil {
		answer(nil, fmt.Errorf("%w: %w", ErrInvalidTxn, err))
		return
	}
	if err := s.admit(envelope); err != nil {
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

// serveRequest does any other request.
func (s *Store) serveRequest(op opcode, payload []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.base, s.cfg.Timing.RPC)
	defer cancel()
	switch op {
	case opReadIndex:
		r, err := s.served.round(ctx)
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
	case opJoin:
		return s.atLeader(ctx, opAddReplica, payload)
	default:
		return s.leaderRequest(op, payload)
	}
}
