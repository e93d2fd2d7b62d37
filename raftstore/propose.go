package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// errNotLeader: this replica does not lead; nothing was proposed.
var errNotLeader = errors.New("replica is not the leader")

// errUnsettled: the entry may or may not become part of the log.
var errUnsettled = errors.New("entry may or may not be committed")

// proposal is an envelope that waits to be packed into a log entry.
type proposal struct {
	envelope []byte
	// taken is set either by the batcher that takes the proposal or by the caller
	// that abandons it. Whoever sets it first decides.
	taken atomic.Bool
	// settle is called once with the outcome. It must not block.
	settle func(outcome)
}

// proposer packs proposals into log entries on the leader. While an entry is being
// committed, arriving proposals collect for the next one. Entries therefore grow with the
// load, and an idle store adds no delay. Two entries at a time would be smaller, and their
// txns not sooner committed: the leader's log and each follower take one after the other.
type proposer struct {
	raft    *guardedRaft
	level   func() uint32 // feature level whose formats are written
	limits  Limits
	metrics *metrics
	closing <-chan struct{}

	queue chan *proposal
}

func newProposer(r *guardedRaft, level func() uint32, l Limits, m *metrics, closing <-chan struct{}) *proposer {
	return &proposer{
		raft: r, level: level, limits: l, metrics: m, closing: closing,
		queue: make(chan *proposal, 4*l.BatchTxns),
	}
}

// submit queues q. It returns errNotLeader if the store is closing.
func (p *proposer) submit(ctx context.Context, q *proposal) error {
	select {
	case p.queue <- q:
		return nil
	default:
	}
	select {
	case p.queue <- q:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.closing:
		return errNotLeader
	}
}

// propose commits an envelope and returns its outcome. After errUnsettled the txn
// may still happen; after any other error it will not.
func (p *proposer) propose(ctx context.Context, envelope []byte) (outcome, error) {
	settled := make(chan outcome, 1)
	q := &proposal{envelope: envelope, settle: func(o outcome) { settled <- o }}
	if err := p.submit(ctx, q); err != nil {
		return outcome{}, err
	}
	var cause error
	select {
	case o := <-settled:
		return o, o.err
	case <-ctx.Done():
		cause = ctx.Err()
	case <-p.closing:
		cause = ErrClosed
	}
	if q.taken.CompareAndSwap(false, true) {
		return outcome{}, cause
	}
	return outcome{}, fmt.Errorf("%w: %w", errUnsettled, cause)
}

// batchLoop packs queued proposals into entries until the store closes.
func (p *proposer) batchLoop() {
	var r reunion
	for {
		select {
		case first := <-p.queue:
			batch := p.collectBatch(first, &r)
			if len(batch) == 0 {
				continue
			}
			begin, waiting := time.Now(), 0
			if !p.commitBatch(batch, func() { waiting = len(p.queue) }) {
				r = reunion{} // its writers may not come back, and its time was that of the fault
				continue
			}
			r.plan(len(batch), waiting, time.Since(begin))
		case <-p.closing:
			return
		}
	}
}

// collectBatch takes queued proposals, up to the limits of one entry, and waits for those
// that r expects.
func (p *proposer) collectBatch(first *proposal, r *reunion) []*proposal {
	batch := make([]*proposal, 0, 16)
	size := 0
	for q := first; q != nil; q = p.nextProposal(r, len(batch)) {
		if q.taken.CompareAndSwap(false, true) {
			batch = append(batch, q)
			size += len(q.envelope)
		}
		if len(batch) >= p.limits.BatchTxns || size >= p.limits.BatchBytes {
			break
		}
	}
	r.end(len(batch))
	return batch
}

// nextProposal returns the next proposal for an entry that has some already, nil if there is
// none and none is expected any more.
func (p *proposer) nextProposal(r *reunion, have int) *proposal {
	select {
	case q := <-p.queue:
		return q
	default:
	}
	late := r.late(have)
	if late == nil {
		return nil
	}
	select {
	case q := <-p.queue:
		return q
	case <-late:
	case <-p.closing:
	}
	return nil
}

// commitBatch proposes one entry, settles its proposals, and reports whether the entry was
// committed. It calls done before it settles them.
func (p *proposer) commitBatch(batch []*proposal, done func()) (committed bool) {
	envelopes := make([][]byte, len(batch))
	for i, q := range batch {
		envelopes[i] = q.envelope
	}
	p.metrics.batch.Observe(float64(len(batch)))
	future := p.raft.Apply(encodeEntry(p.level(), envelopes), time.Second)
	err := future.Error()
	done()
	if err == nil {
		if outcomes, ok := future.Response().([]outcome); ok && len(outcomes) == len(batch) {
			for i, q := range batch {
				q.settle(outcomes[i])
			}
			return true
		}
		err = ErrHalted
	}
	err = classify(err)
	for _, q := range batch {
		q.settle(outcome{kind: outcomeUnsettled, err: err})
	}
	return false
}

// classify separates the errors of raft.Apply after which the entry certainly is
// not in the log (errNotLeader) from those after which it may be (errUnsettled).
func classify(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: %w", errNotLeader, err)
	default:
		return fmt.Errorf("%w: %w", errUnsettled, err)
	}
}
