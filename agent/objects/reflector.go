package objects

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"virtmesh/raftstore"
)

// Sink receives the records below a prefix, from one goroutine.
type Sink interface {
	// Reset replaces everything with recs, the state at revision. It is called first,
	// and again whenever changes may have been missed. All records are compact: a sink
	// expands one after the other (raftstore.Record.Expand).
	Reset(recs []raftstore.Record, revision uint64)
	// Apply applies one change, a Put or a Delete.
	Apply(ev raftstore.Event)
}

// reflector copies the records below a prefix into a Sink: it lists them and then
// watches for changes, and repeats this when the watch ends. It stops when run returns.
type reflector struct {
	store    Store
	prefix   string
	sink     Sink
	log      *slog.Logger
	retryMin time.Duration
	retryMax time.Duration
}

func (r *reflector) run(ctx context.Context) {
	delay := r.retryMin
	for ctx.Err() == nil {
		start := time.Now()
		err := r.listAndWatch(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, raftstore.ErrCompacted) || errors.Is(err, raftstore.ErrSlowWatcher) {
			r.log.Debug("watch fell behind, listing again", "prefix", r.prefix, "err", err)
		} else {
			r.log.Warn("watch ended, trying again", "prefix", r.prefix, "retryIn", delay, "err", err)
		}
		if time.Since(start) > r.retryMax {
			delay = r.retryMin
		}
		select {
		case <-ctx.Done():
			return
		// The jitter prevents the watches of one agent from retrying at the same time.
		case <-time.After(delay/2 + rand.N(delay/2+1)):
		}
		delay = min(delay*2, r.retryMax)
	}
}

// listAndWatch fills the sink and follows the changes; it returns only with an error.
func (r *reflector) listAndWatch(ctx context.Context) error {
	recs, rev, err := r.list(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := r.store.Watch(ctx, raftstore.WatchRequest{Prefix: r.prefix, Revision: rev, Compact: true})
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer w.Stop()
	if rev == 0 {
		// The store was empty, and a watch after revision 0 starts at the present. List
		// again, so that no write between list and watch is missed.
		if recs, rev, err = r.list(ctx); err != nil {
			return err
		}
	}
	r.sink.Reset(recs, rev)
	for ev := range w.Events() {
		if ev.Type != raftstore.Bookmark && ev.Revision > rev {
			r.sink.Apply(ev)
		}
	}
	if err := w.Err(); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	return errors.New("watch was closed")
}

func (r *reflector) list(ctx context.Context) ([]raftstore.Record, uint64, error) {
	res, err := r.store.List(ctx, raftstore.ListRequest{
		Prefix: r.prefix, Compact: true, ReadOptions: raftstore.ReadOptions{Consistency: raftstore.Local},
	})
	if err != nil {
		return nil, 0, fmt.Errorf("list: %w", err)
	}
	return res.Records, res.Revision, nil
}
