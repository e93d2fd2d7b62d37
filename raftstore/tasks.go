package raftstore

import "sync"

// tasks owns goroutines: stop lets no new one start and waits for the rest.
type tasks struct {
	mu      sync.Mutex
	stopped bool
	wg      sync.WaitGroup
}

// start runs fn in a goroutine, unless stop was called.
func (t *tasks) start(fn func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return false
	}
	t.wg.Go(fn)
	return true
}

// stop waits for every goroutine; the caller has told them to end.
func (t *tasks) stop() {
	t.mu.Lock()
	t.stopped = true
	t.mu.Unlock()
	t.wg.Wait()
}
