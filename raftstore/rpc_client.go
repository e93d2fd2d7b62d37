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

// connsPerPeer is how many connections to a peer share the requests to it. The second one is
// opened once a request finds the first one busy.
const connsPerPeer = 2

// connBuffer is the size of a connection's buffers. Larger messages do not pass through them.
const connBuffer = 16 << 10

// redialPause is how long askPeer waits after a failed dial before it dials again.
const redialPause = 100 * time.Millisecond

// peers sends requests to other replicas over pooled connections.
type peers struct {
	dial    func(addr string, timeout time.Duration) (net.Conn, error)
	peerOf  func(net.Conn) string
	group   *group
	timing  Timing
	log     *slog.Logger
	tasks   *tasks
	closing chan struct{}

	dialed broadcast // notified when an attempt to connect has ended

	mu    sync.Mutex
	slots map[string]*[connsPerPeer]peerSlot
	next  int
	stop  bool
}

// peerSlot holds a connection. It is guarded by peers.mu.
type peerSlot struct {
	conn   *peerConn
	dial   *dialling // the attempt in progress, nil if none
	failed time.Time // when dialling last failed
}

// dialling is an attempt to connect. All requests that need the connection wait for
// the same attempt.
type dialling struct {
	done chan struct{} // closed when conn or err is set
	conn *peerConn
	err  error
}

func newPeers(cfg *Config, peerOf func(net.Conn) string, g *group, log *slog.Logger, t *tasks) *peers {
	return &peers{
		dial: cfg.RPC.Dial, peerOf: peerOf, group: g, timing: cfg.Timing, log: log, tasks: t,
		closing: make(chan struct{}),
		slots:   make(map[string]*[connsPerPeer]peerSlot),
	}
}

// commit asks a leader to commit an envelope.
func (p *peers) commit(ctx context.Context, to tenure, envelope []byte) (outcome, error) {
	payload, err := p.callLeader(ctx, to, opCommit, envelope)
	if err != nil {
		return outcome{}, err
	}
	o, err := decodeOutcome(payload)
	if err != nil {
		return outcome{}, fmt.Errorf("%w: %w", errUnsettled, err)
	}
	return o, nil
}

// readIndex asks a leader for a read index.
func (p *peers) readIndex(ctx context.Context, to tenure) (uint64, error) {
	payload, err := p.callLeader(ctx, to, opReadIndex, nil)
	if err != nil {
		return 0, err
	}
	if len(payload) != 8 {
		return 0, fmt.Errorf("%w: read index: %w", errNotLeader, errDecode)
	}
	return binary.LittleEndian.Uint64(payload), nil
}

// call sends a request and waits for the answer. errNotLeader means that nothing was
// done; errUnsettled means that the request may have been carried out.
func (p *peers) call(ctx context.Context, addr string, op opcode, payload []byte) ([]byte, error) {
	return p.callHost(ctx, nil, "", addr, op, payload)
}

// callLeader is a call to a leader that ends early when it has been replaced, so that its
// answer is not worth waiting for.
func (p *peers) callLeader(ctx context.Context, to tenure, op opcode, payload []byte) ([]byte, error) {
	return p.callHost(ctx, to.over, nodeOf(to.id), to.addr, op, payload)
}

// callHost is a call to a host, whatever its name is if node is "", that ends early when over
// is closed.
func (p *peers) callHost(ctx context.Context, over <-chan struct{}, node, addr string, op opcode, payload []byte) ([]byte, error) {
	c, err := p.takeConn(ctx, over, addr)
	if err != nil {
		return nil, fmt.Errorf("%w: connect to %s: %w", errNotLeader, addr, err)
	}
	defer c.calls.Add(-1)
	if node != "" && !c.isOf(node) {
		return nil, fmt.Errorf("%w: host %q answers at %s, the address of %s", errNotLeader, c.peer, addr, node)
	}
	// A peer that has gone silent must not hold up the request for ever.
	timeout := time.NewTimer(p.timing.RPC)
	defer timeout.Stop()
	answer, err := c.request(ctx, over, timeout.C, op, payload)
	if errors.Is(err, errReplaced) {
		// The peer may become leader again. Drop the connection now if it is dead.
		c.failIfSilent(p.timing.Heartbeat)
	}
	if err != nil {
		return nil, fmt.Errorf("request to %s: %w", addr, err)
	}
	if s := status(answer.code); s != statusOK {
		return nil, fmt.Errorf("replica %s: %w", addr, errorOf(s, answer.payload))
	}
	return answer.payload, nil
}

// notify sends a request that is not answered, if there is a connection to addr.
// Otherwise it drops the request and starts to dial, so that the next one can be
// sent.
func (p *peers) notify(addr string, op opcode, payload []byte) {
	p.mu.Lock()
	slot := p.slot(addr, 0)
	c := slot.conn
	if c != nil && c.alive() {
		p.mu.Unlock()
		c.offer(op, payload)
		return
	}
	if time.Since(slot.failed) > p.timing.Dial {
		p.dialSlot(addr, slot)
	}
	p.mu.Unlock()
}

// askPeer sends a request to addr and passes the answer, if one arrives, to answered,
// which must not block. It never waits. Without a connection it starts to dial and
// returns nil; dialed is notified when the attempt has ended.
func (p *peers) askPeer(addr string, op opcode, payload []byte, answered func(frame)) (*peerConn, uint64) {
	p.mu.Lock()
	slot := p.slot(addr, 0)
	c := slot.conn
	if c == nil || !c.alive() {
		if time.Since(slot.failed) > redialPause {
			p.dialSlot(addr, slot)
		}
		c = nil
	}
	p.mu.Unlock()
	if c == nil || c.failIfSilent(p.timing.Dial) {
		return nil, 0
	}
	id, ok := c.send(op, payload, askLimit, answered)
	if !ok {
		return nil, 0
	}
	return c, id
}

// slot returns slot n for connections to addr. The caller holds p.mu.
func (p *peers) slot(addr string, n int) *peerSlot {
	slots := p.slots[addr]
	if slots == nil {
		slots = new([connsPerPeer]peerSlot)
		p.slots[addr] = slots
	}
	return &slots[n%connsPerPeer]
}

// takeConn returns a live connection to addr, dialling if there is none, and counts a call
// on it.
func (p *peers) takeConn(ctx context.Context, over <-chan struct{}, addr string) (*peerConn, error) {
	p.mu.Lock()
	slot := p.freeSlot(addr)
	if c := slot.conn; c != nil && c.alive() && !p.stop {
		c.calls.Add(1)
		p.mu.Unlock()
		return c, nil
	}
	d := p.dialSlot(addr, slot)
	p.mu.Unlock()
	select {
	case <-d.done:
		if d.err == nil {
			d.conn.calls.Add(1)
		}
		return d.conn, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-over:
		return nil, errReplaced
	}
}

// freeSlot returns the first slot for connections to addr on which no call waits. If all are
// busy, they take turns. The caller holds p.mu.
func (p *peers) freeSlot(addr string) *peerSlot {
	for n := range connsPerPeer {
		slot := p.slot(addr, n)
		if c := slot.conn; c == nil || !c.alive() || c.calls.Load() == 0 {
			return slot
		}
	}
	p.next++
	return p.slot(addr, p.next)
}

// closeUnused ends the connections to addr on which nobody waits for an answer.
func (p *peers) closeUnused(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	slots := p.slots[addr]
	if slots == nil {
		return
	}
	for i := range slots {
		if c := slots[i].conn; c != nil && c.calls.Load() == 0 {
			c.failIfUnused(0)
		}
	}
}

// dialSlot starts to dial for a slot, unless an attempt is in progress. The caller
// holds p.mu.
func (p *peers) dialSlot(addr string, slot *peerSlot) *dialling {
	if slot.dial != nil {
		return slot.dial
	}
	d := &dialling{done: make(chan struct{})}
	if p.stop || !p.tasks.start(func() { p.dialNow(addr, slot, d) }) {
		d.err = ErrClosed
		close(d.done)
		return d
	}
	slot.dial = d
	return d
}

// dialNow dials for a slot and completes d.
func (p *peers) dialNow(addr string, slot *peerSlot, d *dialling) {
	d.conn, d.err = p.connect(addr, slot)
	p.mu.Lock()
	slot.dial = nil
	if d.err != nil {
		slot.failed = time.Now()
	}
	p.mu.Unlock()
	close(d.done)
	p.dialed.notify()
}

// connect dials addr, introduces this replica and starts the goroutines of the connection.
func (p *peers) connect(addr string, slot *peerSlot) (*peerConn, error) {
	conn, err := p.dial(addr, p.timing.Dial)
	if err != nil {
		return nil, err
	}
	if err := p.group.meet(conn, rpcMagic, "", introductionTimeout); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	r := bufio.NewReaderSize(conn, connBuffer)
	c := &peerConn{conn: conn, peer: p.peerOf(conn), out: newOutbox(), pending: make(map[uint64]func(frame)), dead: make(chan struct{}), used: time.Now()}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop || !p.tasks.start(func() { c.read(r) }) {
		return nil, errors.Join(ErrClosed, conn.Close())
	}
	if !p.tasks.start(func() { c.fail(c.out.writeLoop(conn, func() {})) }) {
		c.fail(ErrClosed)
		return nil, ErrClosed
	}
	slot.conn = c
	return c, nil
}

// idleLimit is how long a connection may be idle. Followers speak to many replicas while
// they look for a source, and to later leaders; each connection costs its buffers at both
// ends.
const idleLimit = time.Minute

// closeIdle ends idle connections until the store is closed.
func (p *peers) closeIdle(closing <-chan struct{}) {
	tick := time.NewTicker(idleLimit / 2)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-closing:
			return
		}
		p.mu.Lock()
		var conns []*peerConn
		for addr, slots := range p.slots {
			used := false
			for i := range slots {
				if c := slots[i].conn; c != nil && c.alive() {
					conns = append(conns, c)
					used = true
				}
				used = used || slots[i].dial != nil || time.Since(slots[i].failed) < idleLimit
			}
			if !used {
				delete(p.slots, addr)
			}
		}
		p.mu.Unlock()
		for _, c := range conns {
			c.failIfUnused(idleLimit)
		}
	}
}

// close ends all connections. Requests in progress fail with errUnsettled.
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
