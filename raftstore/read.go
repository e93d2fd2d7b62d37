package raftstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Get returns the record at key and the revision of the state that was read. If
// there is no record, it returns ErrNotFound with that revision.
func (s *Store) Get(ctx context.Context, key string, o ReadOptions) (Record, uint64, error) {
	if err := s.awaitFreshness(ctx, o); err != nil {
		return Record{}, 0, fmt.Errorf("get %q: %w", key, err)
	}
	now := s.history.current()
	r, ok := now.tree.Get(&stored{key: key})
	if !ok {
		return Record{}, now.revision, ErrNotFound
	}
	return r.record(), now.revision, nil
}

// List returns the records below a prefix, all from the same state.
func (s *Store) List(ctx context.Context, req ListRequest) (ListResult, error) {
	o := req.ReadOptions
	o.MinRevision = max(o.MinRevision, req.Revision)
	if req.Revision != 0 && o.MinRevision <= s.Revision() {
		o.Consistency = Local // a past state does not change
	}
	if err := s.awaitFreshness(ctx, o); err != nil {
		return ListResult{}, fmt.Errorf("list %q: %w", req.Prefix, err)
	}
	at := past{state: s.history.current()}
	if req.Revision != 0 && req.Revision != at.revision {
		var err error
		if at, err = s.history.asOf(req.Prefix, req.Revision); err != nil {
			return ListResult{}, fmt.Errorf("list %q at revision %d: %w", req.Prefix, req.Revision, err)
		}
	}
	return at.list(req), nil
}

// Scan returns the records below a prefix, compact and in key order, and the revision of
// the state that they are all from. Nothing is copied: a caller that takes its time keeps
// only what has been changed or deleted meanwhile in memory.
func (s *Store) Scan(ctx context.Context, prefix string, o ReadOptions) (iter.Seq[Record], uint64, error) {
	if err := s.awaitFreshness(ctx, o); err != nil {
		return nil, 0, fmt.Errorf("scan %q: %w", prefix, err)
	}
	now := s.history.current()
	return func(yield func(Record) bool) {
		ascendPrefix(now.tree, prefix, "", func(r *stored) bool { return yield(r.compact()) })
	}, now.revision, nil
}

// list returns what req asks for of this state.
func (p *past) list(req ListRequest) ListResult {
	from := ""
	if req.After != "" {
		from = req.After + "\x00"
	}
	result := ListResult{Revision: p.revision}
	filtered := req.UnchangedSince != 0
	if !filtered {
		all := p.count(req.Prefix, from)
		wanted := all
		if req.Limit > 0 {
			wanted = min(all, req.Limit)
		}
		result.Records, result.Remaining = make([]Record, 0, wanted), int64(all-wanted)
	}
	p.ascend(req.Prefix, from, func(r *stored) bool {
		switch {
		case filtered && r.modRevision > req.UnchangedSince:
		case req.Limit > 0 && len(result.Records) == req.Limit:
			if !filtered {
				return false
			}
			result.Remaining++ // only a walk can tell
		case req.Compact:
			result.Records = append(result.Records, r.compact())
		default:
			result.Records = append(result.Records, r.record())
		}
		return true
	})
	result.More = result.Remaining > 0
	return result
}

// Revision returns the revision of the local state.
func (s *Store) Revision() uint64 { return s.history.current().revision }

// awaitFreshness returns when the local state is as fresh as o requires.
func (s *Store) awaitFreshness(ctx context.Context, o ReadOptions) error {
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

// readIndexer makes reads linearizable. A round asks the leader for a read index:
// the log index that includes every write acknowledged before the round began. A
// reader joins a round that has not begun yet, and then waits until the local
// replica has applied up to the read index. All waiting readers share a round, so
// its cost does not grow with their number.
type readIndexer struct {
	s     *Store
	fetch func(context.Context) (uint64, error)

	mu      sync.Mutex
	forming *readRound // the round that has not begun yet; nil if no reader waits
	running bool       // roundLoop runs
	fresh   time.Time  // the local state has every write acknowledged before this time
}

type readRound struct {
	done  chan struct{}
	began time.Time
	index uint64
	err   error
}

// age returns how far the local state may be behind.
func (x *readIndexer) age() time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.fresh.IsZero() {
		return 1<<63 - 1
	}
	return time.Since(x.fresh)
}

// await returns when the local state has every write acknowledged before the call.
// It retries until ctx ends.
func (x *readIndexer) await(ctx context.Context) error {
	for n := 0; ; n++ {
		changed := x.s.leaderChange.wait()
		err := x.joinRoundAndWait(ctx)
		if err == nil {
			return nil
		}
		if isPermanent(err) || errors.Is(err, ErrDiskFull) {
			return giveUpError(false, err)
		}
		if werr := x.s.pauseBeforeRetry(ctx, n, changed); werr != nil {
			return fmt.Errorf("%w: %w: last attempt: %w", ErrNoLeader, werr, err)
		}
	}
}

// joinRound joins a round and returns when the round is done.
func (x *readIndexer) joinRound(ctx context.Context) (*readRound, error) {
	r, err := x.formingRound()
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

// joinRoundAndWait joins a round and waits until the local replica has applied up
// to its read index.
func (x *readIndexer) joinRoundAndWait(ctx context.Context) error {
	r, err := x.joinRound(ctx)
	if err != nil {
		return err
	}
	if err := x.s.waitApplied(ctx, r.index); err != nil {
		return fmt.Errorf("local replica is behind: %w", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if r.began.After(x.fresh) {
		x.fresh = r.began
	}
	return nil
}

// formingRound returns the round that has not begun yet, and starts roundLoop if
// it does not run.
func (x *readIndexer) formingRound() (*readRound, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.forming == nil {
		x.forming = &readRound{done: make(chan struct{})}
	}
	r := x.forming
	if !x.running {
		if !x.s.tasks.start(x.roundLoop) {
			return nil, ErrClosed
		}
		x.running = true
	}
	return r, nil
}

// roundLoop runs rounds as long as readers wait.
func (x *readIndexer) roundLoop() {
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
		r.fetchIndex(x)
		if r.err == nil {
			x.s.metrics.readIndex.Observe(time.Since(r.began).Seconds())
		}
		close(r.done)
	}
}

// fetchIndex gets the read index of the round. A round may outlive its readers, so
// it has its own timeout and does not use a reader's context.
func (r *readRound) fetchIndex(x *readIndexer) {
	ctx, cancel := context.WithTimeoutCause(x.s.base, x.s.cfg.Timing.RPC, errors.New("read index timed out"))
	defer cancel()
	r.began = time.Now()
	r.index, r.err = x.fetch(ctx)
}

// readIndex asks the leader for a read index.
func (s *Store) readIndex(ctx context.Context) (uint64, error) {
	leader := s.leader()
	switch leader.id {
	case "":
		return 0, s.noLeader()
	case s.id:
		return s.leaderReadIndex(ctx)
	default:
		index, err := s.peers.readIndex(ctx, leader)
		if err != nil && s.base.Err() == nil {
			// A timeout of the round must not end its readers, so it is not wrapped.
			return 0, fmt.Errorf("%w: %s", errNotLeader, err.Error())
		}
		return index, err
	}
}

// leaderReadIndex returns the read index on the leader: the commit index, after
// which a majority of the voters confirms the leadership. A new leader does not
// know what earlier leaders committed until an entry of its own term is committed,
// so the leader must be ready in its term.
func (s *Store) leaderReadIndex(ctx context.Context) (uint64, error) {
	term, err := s.termReady()
	if err != nil {
		return 0, err
	}
	committed := s.raft.CommitIndex()
	if err := s.confirm(ctx, term); err != nil {
		return 0, fmt.Errorf("%w: %w", errNotLeader, err)
	}
	return s.commandIndex(committed)
}

// commandIndex returns the last log index up to committed that reaches the state
// machine. Raft does not pass its own entries, such as the one that confirms a new
// leader, to the state machine, so nobody can wait for their index.
func (s *Store) commandIndex(committed uint64) (uint64, error) {
	applied := s.applied.get()
	var l raft.Log
	for i := committed; i > applied; i-- {
		err := s.disk.logs.GetLog(i, &l)
		switch {
		case errors.Is(err, raft.ErrLogNotFound):
			// The log was compacted in the meantime, so the state machine has applied
			// that entry, but perhaps after applied was read above.
			return s.applied.get(), nil
		case err != nil:
			return 0, fmt.Errorf("read log index %d: %w", i, err)
		case l.Type == raft.LogCommand || l.Type == raft.LogConfiguration:
			return i, nil
		}
	}
	return applied, nil
}
