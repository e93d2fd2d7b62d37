package raftstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// askLimit is how many optional requests are sent on a connection while nothing is
// received on it.
const askLimit = 64

var (
	// errReplaced: the leader that was asked has been replaced.
	errReplaced = errors.New("another leader is known")
	// errSilent: nothing was received on a connection although an answer was due.
	errSilent = errors.New("no answer in time")
	// errIdle: the connection was not used for a while.
	errIdle = errors.New("the connection was idle")
)

// peerConn is a connection to a peer with its pending requests.
type peerConn struct {
	conn net.Conn
	peer string // the host at the other end, "" if peers are believed who they are
	out  *outbox
	dead chan struct{}
	// calls is how many calls have taken the connection. It grows under peers.mu.
	calls atomic.Int32

	mu      sync.Mutex
	pending map[uint64]func(frame)
	next    uint64
	used    time.Time // when something was last sent
	unheard int       // requests sent since something was last received
	since   time.Time // when the first of them was sent
	err     error
}

// isOf reports whether a host is at the other end.
func (c *peerConn) isOf(node string) bool { return c.peer == "" || c.peer == node }

func (c *peerConn) alive() bool {
	select {
	case <-c.dead:
		return false
	default:
		return true
	}
}

// fail ends the connection with err.
func (c *peerConn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(err)
}

// failLocked is fail for a caller that holds c.mu.
func (c *peerConn) failLocked(err error) {
	if c.err != nil {
		return
	}
	if err == nil {
		err = net.ErrClosed
	}
	c.err = err
	close(c.dead)
	c.out.close()
	_ = c.conn.Close()
}

// failIfSilent ends the connection and returns true if a request has waited for
// longer than limit and nothing at all was received. A host that lost its power does
// not close its connections.
func (c *peerConn) failIfSilent(limit time.Duration) bool {
	c.mu.Lock()
	silent := c.unheard > 0 && time.Since(c.since) > limit
	c.mu.Unlock()
	if silent {
		c.fail(errSilent)
	}
	return silent
}

// failIfUnused ends the connection if it was not used for a time and nobody waits for an
// answer.
func (c *peerConn) failIfUnused(since time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) == 0 && time.Since(c.used) >= since {
		c.failLocked(errIdle)
	}
}

// offer queues a message that is not answered, if there is room.
func (c *peerConn) offer(op opcode, payload []byte) {
	c.mu.Lock()
	c.used = time.Now()
	c.mu.Unlock()
	c.out.offer(frame{code: uint8(op), payload: payload})
}

// read reads answers and passes them to the callbacks of their requests.
func (c *peerConn) read(r *bufio.Reader) {
	for {
		f, err := readFrame(r)
		if err != nil {
			c.fail(err)
			return
		}
		c.mu.Lock()
		answered := c.pending[f.id]
		delete(c.pending, f.id)
		c.unheard = 0
		c.mu.Unlock()
		if answered != nil {
			answered(f)
		}
	}
}

// send queues a request. answered is called with the answer and must not block. send
// returns false if the connection is closed, or if limit requests were sent since
// something was last received; a limit of zero means none.
func (c *peerConn) send(op opcode, payload []byte, limit int, answered func(frame)) (id uint64, ok bool) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return 0, false
	}
	c.used = time.Now()
	if limit > 0 && c.unheard >= limit {
		c.mu.Unlock()
		return 0, false
	}
	if c.unheard == 0 {
		c.since = time.Now()
	}
	c.unheard++
	c.next++
	id = c.next
	c.pending[id] = answered
	c.mu.Unlock()
	return id, c.out.send(frame{id, uint8(op), payload})
}

// forgetRequest drops a request whose answer is no longer needed.
func (c *peerConn) forgetRequest(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

// request sends a request and waits for its answer.
func (c *peerConn) request(ctx context.Context, over <-chan struct{}, timeout <-chan time.Time, op opcode, payload []byte) (frame, error) {
	answer := make(chan frame, 1)
	id, ok := c.send(op, payload, 0, func(f frame) { answer <- f })
	if !ok {
		return frame{}, fmt.Errorf("%w: connection is gone", errNotLeader)
	}
	var cause error
	select {
	case f := <-answer:
		return f, nil
	case <-c.dead:
		select {
		case f := <-answer: // the answer came before the connection ended
			return f, nil
		default:
		}
		cause = c.err
	case <-ctx.Done():
		cause = ctx.Err()
	case <-over:
		cause = errReplaced
	case <-timeout:
		cause = errSilent
		// The next request should not wait on the same silent connection.
		c.fail(cause)
	}
	c.forgetRequest(id)
	return frame{}, fmt.Errorf("%w: %w", errUnsettled, cause)
}
