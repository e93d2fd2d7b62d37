package raftstore

import (
	"context"
	"errors"
	"testing"
)

// Who gives up waiting leaves nothing behind: a peer may ask for an index that never comes.
func TestAbandonedWaitsAreForgotten(t *testing.T) {
	a := &appliedIndex{}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range uint64(1000) {
		if err := a.wait(gone, 1<<63+i%7); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if n := len(a.waiters); n != 0 {
		t.Errorf("%d waiters are left", n)
	}
	reached := make(chan error)
	go func() { reached <- a.wait(t.Context(), 5) }()
	for a.set(4); ; {
		a.mu.Lock()
		waiting := len(a.waiters)
		a.mu.Unlock()
		if waiting == 1 {
			break
		}
	}
	a.set(5)
	if err := <-reached; err != nil {
		t.Error(err)
	}
}
