package executor

import (
	"context"
	"errors"
	"sync"
)

// errStopped refuses work on an executor that was closed.
var errStopped = errors.New("the executor has stopped")

// tasks runs the work that no worker waits for, because an image's registry or a guest
// determines how long it takes. Closing the executor ends all tasks.
type tasks struct {
	life context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

func newTasks() *tasks {
	t := &tasks{}
	t.life, t.stop = context.WithCancel(context.Background())
	return t
}

// startTask runs fn in a goroutine, with a context that ends when the tasks do.
func (t *tasks) startTask(fn func(ctx context.Context)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errStopped
	}
	t.wg.Go(func() { fn(t.life) })
	return nil
}

// close ends all tasks, and returns when they have ended.
func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.stop()
	t.wg.Wait()
}
