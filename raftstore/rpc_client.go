package raftstore

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// connsPerPeer is how many connections to a peer share the requests to it.
const connsPerPeer = 2

// peers sends requests to other replicas over pooled connections.
type peers struct {
	dial    func(addr string, timeout time.Duration) (net.Conn, error)
	group   *group
	timing  Timing
	log     *slog.Logger
	tasks   *tasks
	closing chan struct{}

	mu    sync.Mutex
	slots map[string]*[connsPerPeer]peerSlot
	next  int
	stop  bool
}

// peerSlot holds a connection, and the lock of whoever dials it.
type peerSlot struct {
	dialing sync.Mutex

	// Guarded by peers.mu.
	conn      *peerConn
	redialing bool      // for notify
	failed    time.Time // when notify last failed to dial
}

func newPeers(cfg *Config, g *group, log *slog.Logger, t *tasks) *peers {
	return &peers{
		dial: cfg.RPC.Dial, group: g, timing: cfg.Timing, log: log, tasks: t,
		closing: make(chan struct{}),
		slots:   make(map[string]*[connsPerPeer]peerSlot),
	}
}

// commit asks the replica at addr to commit an envelope.
func (p *peers) commit(ctx context.Context, addr string, envelope []byte) (outcome, error) {
	payload, err := p.call(ctx, addr, opCommit, envelope)
	if err != nil {
		return outcome{}, err
	}
	o, err := decodeOutcome(payload)
	if err != nil {
		return outcome{}, fmt.Errorf("%w: %w", errUnsettled, err)
	}
	return o, nil
}

// readIndex asks the replica at addr, as the leader, for a read index.
func (p *peers) readIndex(ctx context.Context, addr string) (uint64, error) {
	payload, err := p.call(ctx, addr, opReadIndex, nil)
	if err != nil {
		return 0, err
	}
	if len(payload) != 8 {
		return 0, fmt.Errorf("%w: read index: %w", errNotLeader, errDecode)
	}
	return binary.LittleEndian.Uint64(payload), nil
}

// call sends a request and waits for the answer. errNotLeader means that nothing
// was done; errUnsettled that it may have been.
func (p *peers) call(ctx context.Context, addr string, op opcode, payload []byte) ([]byte, error) {
	c, err := p.conn(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("%w: connect to %s: %w", errNotLeader, addr, err)
	}
	// A peer that went silent must not hold the request for ever.
	timeout := time.NewTimer(p.timing.RPC)
	defer timeout.Stop()
	answer, err := c.request(ctx, timeout.C, op, payload)
	if err != nil {
		return nil, fmt.Errorf("request to %s: %w", addr, err)
	}
	if s := status(answer.code); s != statusOK {
		return nil, fmt.Errorf("replica %s: %w", addr, errorOf(s, answer.payload))
	}
	return answer.payload, nil
}

// notify sends a request that is not answered, if there is a connection to addr;
// if not, it has one made for the next time.
func (p *peers) notify(addr string, op opcode, payload []byte) {
	p.mu.Lock()
	slot := p.slot(addr, 0)
	c := slot.conn
	if c != nil && c.alive() {
		p.mu.Unlock()
		c.out.offer(frame{code: uint8(op), payload: payload})
		return
	}
	redial := !p.stop && !slot.redialing && time.Since(slot.failed) > p.timing.Dial
	slot.redialing = slot.redialing || redial
	p.mu.Unlock()
	if !redial {
		return
	}
	p.tasks.start(func() {
		_, err := p.dialSlot(context.Background(), addr, slot)
		p.mu.Lock()
		defer p.mu.Unlock()
		slot.redialing = false
		if err != nil {
			slot.failed = time.Now()
		}
	})
}

// slot returns a place for a connection to addr. p.mu is held.
func (p *peers) slot(addr string, n int) *peerSlot {
	slots := p.slots[addr]
	if slots == nil {
		slots = new([connsPerPeer]peerSlot)
		p.slots[addr] = slots
	}
	return &slots[n%connsPerPeer]
}

// conn returns a live connection to addr, dialling if there is none.
func (p *peers) conn(ctx context.Context, addr string) (*peerConn, error) {
	p.mu.Lock()
	if p.stop {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	p.next++
	slot := p.slot(addr, p.next)
	if c := slot.conn; c != nil && c.alive() {
		p.mu.Unlock()
		return c, nil
	}
	p.mu.Unlock()
	return p.dialSlot(ctx, addr, slot)
}

// dialSlot fills a slot. Others who want the slot wait for one dial instead of
// starting their own.
func (p *peers) dialSlot(ctx context.Context, addr string, slot *peerSlot) (*peerConn, error) {
	slot.dialing.Lock()
	defer slot.dialing.Unlock()
	p.mu.Lock()
	c := slot.conn
	p.mu.Unlock()
	if c != nil && c.alive() {
		return c, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return p.connect(addr, slot)
}

// connect dials addr and starts the connection's goroutines.
func (p *peers) connect(addr string, slot *peerSlot) (*peerConn, error) {
	conn, err := p.dial(addr, p.timing.Dial)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(conn, 64<<10)
	if _, err := p.group.greet(conn, r); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c := &peerConn{conn: conn, out: newOutbox(), pending: make(map[uint64]chan frame), dead: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop || !p.tasks.start(func() { c.read(r) }) {
		return nil, errors.Join(ErrClosed, conn.Close())
	}
	if !p.tasks.start(func() { c.fail(c.out.run(conn, func() {})) }) {
		c.fail(ErrClosed)
		return nil, ErrClosed
	}
	slot.conn = c
	return c, nil
}

// close ends all connections; requests under way fail as unsettled.
func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stop = true
	for _, slots := range p.slots {
		for i := range slots {
			if c := slots[i].conn; c != nil {
				c.fail(ErrClosed)
			}
		}
	}
}

// peerConn is a connection with requests under way.
type peerConn struct {
	conn net.Conn
	out  *outbox
	dead chan struct{}

	mu      sync.Mutex
	pending map[uint64]chan frame
	next    uint64
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

// read hands answers to those who wait for them.
func (c *peerConn) read(r *bufio.Reader) {
	for {
		f, err := readFrame(r)
		if err != nil {
			c.fail(err)
			return
		}
		c.mu.Lock()
		ch := c.pending[f.id]
		delete(c.pending, f.id)
		c.mu.Unlock()
		if ch != nil {
			ch <- f
		}
	}
}

// request sends a request and waits for its answer.
func (c *peerConn) request(ctx context.Context, timeout <-chan time.Time, op opcode, payload []byte) (frame, error) {
	answer := make(chan frame, 1)
	c.mu.Lock()
	c.next++
	id := c.next
	c.pending[id] = answer
	c.mu.Unlock()
	if !c.out.send(frame{id, uint8(op), payload}) {
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
	case <-timeout:
		cause = errors.New("no answer in time")
		// Whoever comes next should not wait for the same silence.
		c.fail(cause)
	}
	c.mu.Lock()
	delete(c.pending, id)
	c.mu.Unlock()
	return frame{}, fmt.Errorf("%w: %w", errUnsettled, cause)
}
