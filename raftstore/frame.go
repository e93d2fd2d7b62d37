package raftstore

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
)

// The RPC protocol: after the introduction (greeting.go) follow frames. A frame is its
// length, the ID of the request it belongs to, an op or a status, and a payload. Requests
// are answered in any order.
const (
	frameHeader = 4 + 8 + 1
	maxFrame    = 32 << 20
	offerLimit  = 64
)

type opcode uint8

const (
	opCommit opcode = iota + 1
	opReadIndex
	opJoin // sent to any replica, which forwards it to the leader as opAddReplica
	opAddReplica
	opRemoveReplica
	opStats
	opStatus
	opCommitted  // not answered
	opTerm       // the current term of the replica named
	opSilences   // for how long each host has not answered the leader
	opStatement  // a signed statement on the replica's state at a log index
	opStatements // those of a majority of the voters; not answered
	opRenewLease
	opFence
	opLeases
	opCheckpoint   // asks the leader for a checkpoint
	opPull         // a follower asks for entries
	opPullSnapshot // and for a piece of a snapshot
	opReport       // a voter tells the leader who is fed below it
	opRaiseLevel
)

type status uint8

const (
	statusOK status = iota + 1
	statusNotLeader
	statusUnsettled
	statusInvalid
	statusTooLarge
	statusUnknownConstraint
	statusFailed
	statusFeatureLevel
	statusHeldUp
	statusTooNew
	statusForbidden
)

// frame is one message.
type frame struct {
	id      uint64
	code    uint8 // opcode or status
	payload []byte
}

func writeFrame(w *bufio.Writer, f frame) error {
	var head [frameHeader]byte
	binary.LittleEndian.PutUint32(head[:], uint32(8+1+len(f.payload)))
	binary.LittleEndian.PutUint64(head[4:], f.id)
	head[12] = f.code
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.Write(f.payload)
	return err
}

func readFrame(r *bufio.Reader) (frame, error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n < 9 || n > maxFrame {
		return frame{}, fmt.Errorf("frame of %d bytes", n)
	}
	f := frame{id: binary.LittleEndian.Uint64(head[4:]), code: head[12], payload: make([]byte, n-9)}
	_, err := io.ReadFull(r, f.payload)
	return f, err
}

// outbox queues frames for a connection. Queueing never blocks. The length of the
// queue is bounded by the number of requests in progress.
type outbox struct {
	mu     sync.Mutex
	ready  sync.Cond
	frames []frame
	closed bool
}

func newOutbox() *outbox {
	o := &outbox{}
	o.ready.L = &o.mu
	return o
}

// send queues f. It returns false if the outbox is closed.
func (o *outbox) send(f frame) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.frames = append(o.frames, f)
	o.ready.Signal()
	return true
}

// offer queues f unless offerLimit frames are waiting already. It is for messages
// that a later message of the same kind makes superfluous.
func (o *outbox) offer(f frame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed && len(o.frames) < offerLimit {
		o.frames = append(o.frames, f)
		o.ready.Signal()
	}
}

func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.ready.Signal()
}

// writeLoop writes frames until the outbox is closed or a write fails. Frames that
// queue up together share one flush. sent is called after each written frame.
func (o *outbox) writeLoop(conn net.Conn, sent func()) error {
	w := bufio.NewWriterSize(conn, connBuffer)
	var batch []frame
	for {
		o.mu.Lock()
		for len(o.frames) == 0 && !o.closed {
			o.ready.Wait()
		}
		if o.closed {
			o.mu.Unlock()
			return nil
		}
		batch, o.frames = o.frames, batch[:0]
		o.mu.Unlock()
		for i := range batch {
			if err := writeFrame(w, batch[i]); err != nil {
				return err
			}
			batch[i] = frame{}
			sent()
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
}
