package raftstore

import "sync"

// tasks tracks goroutines. After stop, no new goroutine can start.
type tasks struct {
	mu      sync.Mutex
	stopped bool
	wg      sync.WaitGroup
}

// start runs fn in a goroutine. It returns false if stop was called.
func (t *tasks) start(fn func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return false
	}
	t.wg.Go(fn)
	return true
}

// stop waits for every goroutine. The caller must have signalled them to end.
func (t *tasks) stop() {
	t.mu.Lock()
	t.stopped = true
	t.mu.Unlock()
	t.wg.Wait()
}
