// Package robustness runs the control loops of the stewards and of a host
// together, over a store in memory and a fake hypervisor, in fake time. Its
// tests hold what no single loop can promise, such as how much the mesh writes.
package robustness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// journal tells the log entries that the loops have written, in order.
type journal struct {
	mu      sync.Mutex
	entries []string
}

// since returns the entries after the first n.
func (j *journal) since(n int) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.entries[n:])
}

// recorded is the store of one writer: it notes each of its log entries.
type recorded struct {
	objects.Store
	writer  string
	journal *journal
}

// Commit implements objects.Store.
func (r recorded) Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error) {
	// Held over the commit, so that entries are noted in their order.
	r.journal.mu.Lock()
	defer r.journal.mu.Unlock()
	result, err := r.Store.Commit(ctx, t)
	var conflict *raftstore.ConflictError
	switch {
	case err == nil:
		r.journal.entries = append(r.journal.entries, r.writer+": "+writtenKinds(t))
	case errors.As(err, &conflict) && conflict.Want != 0:
		// On an old revision: raftstore refuses it without an entry, as its test
		// TestTxnOnOldRevisionTakesNoEntry holds.
	default:
		r.journal.entries = append(r.journal.entries, fmt.Sprintf("%s, refused: %v", r.writer, err))
	}
	return result, err
}

// writtenKinds returns what a transaction writes, each kind once.
func writtenKinds(t raftstore.Txn) string {
	var list []string
	for _, op := range t.Ops {
		path := strings.Split(strings.Trim(op.Key, "/"), "/")
		kind := path[0] // claims
		if kind == "registry" {
			kind = path[2] // below the group
		}
		if !slices.Contains(list, kind) {
			list = append(list, kind)
		}
	}
	return strings.Join(list, " ")
}

// lagging delivers every event of a watch some time after the change, as a busy
// host does. Reads show the change at once.
type lagging struct {
	objects.Store
	lag time.Duration
}

// Watch implements objects.Store.
func (l lagging) Watch(ctx context.Context, request raftstore.WatchRequest) (objects.Watcher, error) {
	under, err := l.Store.Watch(ctx, request)
	if err != nil {
		return nil, err
	}
	w := &lateWatcher{Watcher: under, events: make(chan raftstore.Event)}
	type due struct {
		event raftstore.Event
		at    time.Time
	}
	queue := make(chan due, 1024)
	go func() {
		defer close(queue)
		for event := range under.Events() {
			queue <- due{event, time.Now().Add(l.lag)}
		}
	}()
	go func() {
		defer close(w.events)
		for next := range queue {
			time.Sleep(time.Until(next.at))
			select {
			case w.events <- next.event:
			case <-ctx.Done():
			}
		}
	}()
	return w, nil
}

type lateWatcher struct {
	objects.Watcher
	events chan raftstore.Event
}

// Events implements objects.Watcher.
func (w *lateWatcher) Events() <-chan raftstore.Event { return w.events }
