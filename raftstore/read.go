package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Get returns the record at key and the revision of the state it was read from,
// or ErrNotFound with that revision.
func (s *Store) Get(ctx context.Context, key string, o ReadOptions) (Record, uint64, error) {
	if err := s.await(ctx, o); err != nil {
		return Record{}, 0, fmt.Errorf("get %q: %w", key, err)
	}
	now := s.history.current()
	r, ok := now.tree.Get(&Record{Key: key})
	if !ok {
		return Record{}, now.revision, ErrNotFound
	}
	return *r, now.revision, nil
}

// List returns the records below a prefix, from one state.
func (s *Store) List(ctx context.Context, req ListRequest) (ListResult, error) {
	o := req.ReadOptions
	o.MinRevision = max(o.MinRevision, req.Revision)
	if req.Revision != 0 && o.MinRevision <= s.Revision() {
		o.Consistency = Local // the past does not change
	}
	if err := s.await(ctx, o); err != nil {
		return ListResult{}, fmt.Errorf("list %q: %w", req.Prefix, err)
	}
	at := past{state: s.history.current()}
	if req.Revision != 0 && req.Revision != at.revision {
		var err error
		if at, err = s.history.asOf(req.Prefix, req.Revision); err != nil {
			return ListResult{}, fmt.Errorf("list %q at revision %d: %w", req.Prefix, req.Revision, err)
		}
	}
	result := ListResult{Revision: at.revision}
	at.ascend(req.Prefix, req.After, func(r *Record) bool {
		if req.Limit > 0 && len(result.Records) == req.Limit {
			result.Remaining++
			return true
		}
		result.Records = append(result.Records, *r)
		return true
	})
	result.More = result.Remaining > 0
	return result, nil
}

// Revision returns the revision of the local state.
func (s *Store) Revision() uint64 { return s.history.current().revision }

// await returns when the local state is as fresh as o demands.
func (s *Store) await(ctx context.Context, o ReadOptions) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.Err(); err != nil {
		return err
	}
	switch o.Consistency {
	case Local:
		if o.MinRevision <= s.Revision() {
			return nil
		}
	case Bounded:
		if s.reads.age() <= o.MaxStaleness && o.MinRevision <= s.Revision() {
			return nil
		}
	case Linearizable:
	default:
		return fmt.Errorf("unknown consistency %s", o.Consistency)
	}
	if err := s.reads.await(ctx); err != nil {
		return err
	}
	if s.Revision() < o.MinRevision {
		return ErrFutureRevision
	}
	return nil
}

// readIndexer makes reads linearizable. A round finds the log index that holds
// every write acknowledged before the round began; a reader joins a round that
// has not begun yet and then waits for the local replica to reach its index. All
// readers that wait share a round, so its cost does not grow with their number.
type readIndexer struct {
	s     *Store
	fetch func(context.Context) (uint64, error)

	mu      sync.Mutex
	forming *readRound // not begun, nil if nobody waits
	running bool
	fresh   time.Time // the local state holds every write acknowledged before
}

type readRound struct {
	done  chan struct{}
	began time.Time
	index uint64
	err   error
}

// age is how much the local state may be behind.
func (x *readIndexer) age() time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.fresh.IsZero() {
		return 1<<63 - 1
	}
	return time.Since(x.fresh)
}

// await returns when the local state holds every write acknowledged before the
// call. It tries until ctx ends.
func (x *readIndexer) await(ctx context.Context) error {
	for n := 0; ; n++ {
		changed := x.s.leaderChange.wait()
		err := x.once(ctx)
		if err == nil {
			return nil
		}
		if permanent(err) || errors.Is(err, ErrDiskFull) {
			return giveUp(false, err)
		}
		if werr := x.s.pause(ctx, n, changed); werr != nil {
			return fmt.Errorf("%w: %w: last attempt: %w", ErrNoLeader, werr, err)
		}
	}
}

// round joins a round and returns when it is done.
func (x *readIndexer) round(ctx context.Context) (*readRound, error) {
	r, err := x.join()
	if err != nil {
		return nil, err
	}
	select {
	case <-r.done:
		return r, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errNotLeader, ctx.Err())
	}
}

// once does a round and waits for the local replica.
func (x *readIndexer) once(ctx context.Context) error {
	r, err := x.round(ctx)
	if err != nil {
		return err
	}
	if err := x.s.follow(ctx, r.index); err != nil {
		return fmt.Errorf("local replica is behind: %w", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if r.began.After(x.fresh) {
		x.fresh = r.began
	}
	return nil
}

func (x *readIndexer) join() (*readRound, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.forming == nil {
		x.forming = &readRound{done: make(chan struct{})}
	}
	r := x.forming
	if !x.running {
		if !x.s.tasks.start(x.run) {
			return nil, ErrClosed
		}
		x.running = true
	}
	return r, nil
}

// run makes rounds as long as readers wait.
func (x *readIndexer) run() {
	for {
		x.mu.Lock()
		r := x.forming
		x.forming = nil
		if r == nil {
			x.running = false
			x.mu.Unlock()
			return
		}
		x.mu.Unlock()
		r.begin(x)
		if r.err == nil {
			x.s.metrics.readIndex.Observe(time.Since(r.began).Seconds())
		}
		close(r.done)
	}
}

// begin does the round. Rounds outlive their readers, so it has a timeout of its
// own instead of a context.
func (r *readRound) begin(x *readIndexer) {
	ctx, cancel := context.WithTimeoutCause(x.s.base, x.s.cfg.Timing.RPC, errors.New("read index timed out"))
	defer cancel()
	r.began = time.Now()
	r.index, r.err = x.fetch(ctx)
}

// readIndex asks whoever leads.
func (s *Store) readIndex(ctx context.Context) (uint64, error) {
	leader := s.leader()
	switch leader.id {
	case "":
		return 0, errNotLeader
	case s.id:
		return s.leaderReadIndex(ctx)
	default:
		index, err := s.peers.readIndex(ctx, leader)
		if err != nil && s.base.Err() == nil {
			// The round's own timeout is no reason for its readers to give up.
			return 0, fmt.Errorf("%w: %s", errNotLeader, err.Error())
		}
		return index, err
	}
}

// leaderReadIndex is the leader's part: the commit index, confirmed by a
// majority afterwards. A new leader does not know what its predecessors
// committed until an entry of its own term is, so it must be ready first.
func (s *Store) leaderReadIndex(ctx context.Context) (uint64, error) {
	term := s.readyTerm.Load()
	if term == 0 || !s.leads(term) {
		return 0, fmt.Errorf("%w: not ready in this term", errNotLeader)
	}
	committed := s.raft.CommitIndex()
	if err := s.confirm(ctx, term); err != nil {
		return 0, fmt.Errorf("%w: %w", errNotLeader, err)
	}
	return s.commandIndex(committed)
}

// commandIndex returns the log index at which the state machine holds everything
// up to a committed index. Entries that are none of its business, such as the
// one that confirms a leader, never reach it and cannot be waited for.
func (s *Store) commandIndex(committed uint64) (uint64, error) {
	applied := s.applied.get()
	var l raft.Log
	for i := committed; i > applied; i-- {
		err := s.disk.logs.GetLog(i, &l)
		switch {
		case errors.Is(err, raft.ErrLogNotFound):
			// Compacted meanwhile, so applied up to there, but perhaps not when it
			// was asked above.
			return s.applied.get(), nil
		case err != nil:
			return 0, fmt.Errorf("read log index %d: %w", i, err)
		case l.Type == raft.LogCommand || l.Type == raft.LogConfiguration:
			return i, nil
		}
	}
	return applied, nil
}
