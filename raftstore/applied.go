package raftstore

import (
	"container/heap"
	"context"
	"sync"
)

// appliedIndex holds the log index up to which the state machine has applied. A
// caller can wait for an index; only the waiters whose index is reached wake up.
type appliedIndex struct {
	mu      sync.Mutex
	index   uint64
	waiters waiterHeap
	failed  error
}

type waiter struct {
	index uint64
	ready chan struct{}
	place int // in the heap, -1 once it is out
}

type waiterHeap []*waiter

func (h waiterHeap) Len() int           { return len(h) }
func (h waiterHeap) Less(i, j int) bool { return h[i].index < h[j].index }
func (h waiterHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *waiterHeap) Push(x any) {
	w := x.(*waiter)
	w.place = len(*h)
	*h = append(*h, w)
}

func (h *waiterHeap) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	w.place = -1
	return w
}

var _ heap.Interface = (*waiterHeap)(nil)

func (a *appliedIndex) get() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.index
}

// set records that everything up to index is visible to readers. The index never goes back.
func (a *appliedIndex) set(index uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.index = index
	for len(a.waiters) > 0 && a.waiters[0].index <= index {
		close(heap.Pop(&a.waiters).(*waiter).ready)
	}
}

// fail ends all present and future waits with err.
func (a *appliedIndex) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed == nil {
		a.failed = err
	}
	for len(a.waiters) > 0 {
		close(heap.Pop(&a.waiters).(*waiter).ready)
	}
}

// wait returns when everything up to index is visible to readers.
func (a *appliedIndex) wait(ctx context.Context, index uint64) error {
	a.mu.Lock()
	if a.index >= index || a.failed != nil {
		defer a.mu.Unlock()
		if a.index >= index {
			return nil
		}
		return a.failed
	}
	w := &waiter{index: index, ready: make(chan struct{})}
	heap.Push(&a.waiters, w)
	a.mu.Unlock()
	select {
	case <-w.ready:
	case <-ctx.Done():
		a.dropWaiter(w) // the index may never come
		return ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.index < index {
		return a.failed
	}
	return nil
}

// dropWaiter forgets a waiter that nobody waits for any more.
func (a *appliedIndex) dropWaiter(w *waiter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w.place >= 0 {
		heap.Remove(&a.waiters, w.place)
	}
}
