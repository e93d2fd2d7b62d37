package raftstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// askLimit is how many requests that can be done without are sent on a
// connection on which nothing is heard.
const askLimit = 64

var (
	// errReplaced: the leader that was asked has been replaced.
	errReplaced = errors.New("another leader is known")
	// errSilent: nothing was heard on a connection, though something was due.
	errSilent = errors.New("no answer in time")
)

// peerConn is a connection with requests under way.
type peerConn struct {
	conn net.Conn
	out  *outbox
	dead chan struct{}

	mu      sync.Mutex
	pending map[uint64]func(frame)
	next    uint64
	unheard int       // requests since something was heard
	since   time.Time // of the first of them
	err     error
}

func (c *peerConn) alive() bool {
	select {
	case <-c.dead:
		return false
	default:
		return true
	}
}

// fail ends the connection.
func (c *peerConn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
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

// failIfSilent ends the connection, and tells so, if requests have waited for
// that long and nothing at all was heard. A host that lost its power does not
// close its connections.
func (c *peerConn) failIfSilent(limit time.Duration) bool {
	c.mu.Lock()
	silent := c.unheard > 0 && time.Since(c.since) > limit
	c.mu.Unlock()
	if silent {
		c.fail(errSilent)
	}
	return silent
}

// read hands answers to those who wait for them.
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

// send sends a request; answered gets the answer and must not block. It does not
// if the connection is gone, or if limit requests went unheard; zero is no limit.
func (c *peerConn) send(op opcode, payload []byte, limit int, answered func(frame)) (id uint64, ok bool) {
	c.mu.Lock()
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

// forget drops a request whose answer nobody wants any more.
func (c *peerConn) forget(id uint64) {
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
		case f := <-answer: // it came before the end
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
		// Whoever comes next should not wait for the same silence.
		c.fail(cause)
	}
	c.forget(id)
	return frame{}, fmt.Errorf("%w: %w", errUnsettled, cause)
}
