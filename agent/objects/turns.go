package objects

import (
	"context"
	"sync"
)

// turns lets transactions of this host that write the same records commit one after the
// other: of several at once all but one would be refused. The zero value is ready to use, and
// safe for concurrent use.
type turns struct {
	mu   sync.Mutex
	held map[string]*turn
}

// turn is that at one record.
type turn struct {
	busy chan struct{} // holds one element while somebody has the turn
	wait int           // who has it or waits for it
}

// enter waits for a turn at each of the keys, which are sorted, so that nobody waits for
// somebody who waits. The caller calls leave when it is done.
func (t *turns) enter(ctx context.Context, keys []string) (leave func(), err error) {
	for i, key := range keys {
		if err := t.enterOne(ctx, key); err != nil {
			t.leave(keys[:i])
			return nil, err
		}
	}
	return func() { t.leave(keys) }, nil
}

func (t *turns) enterOne(ctx context.Context, key string) error {
	t.mu.Lock()
	if t.held == nil {
		t.held = map[string]*turn{}
	}
	one := t.held[key]
	if one == nil {
		one = &turn{busy: make(chan struct{}, 1)}
		t.held[key] = one
	}
	one.wait++
	t.mu.Unlock()
	select {
	case one.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		t.mu.Lock()
		defer t.mu.Unlock()
		t.forget(key, one)
		return ctx.Err()
	}
}

func (t *turns) leave(keys []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range keys {
		one := t.held[key]
		<-one.busy
		t.forget(key, one)
	}
}

// forget drops the turn once nobody wants it. The caller holds mu.
func (t *turns) forget(key string, one *turn) {
	if one.wait--; one.wait == 0 {
		delete(t.held, key)
	}
}
