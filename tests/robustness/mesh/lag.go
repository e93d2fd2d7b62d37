package mesh

import (
	"context"
	"time"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// lagging delivers every event of a watch some time after the change, as a busy
// host does. Reads show the change at once.
type lagging struct {
	objects.Store
	host *Host
}

var _ objects.Store = lagging{}

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
			queue <- due{event, time.Now().Add(l.host.mesh.cfg.Lag)}
		}
	}()
	go func() {
		defer close(w.events)
		for next := range queue {
			time.Sleep(time.Until(next.at))
			l.host.cpu.idle()
			select {
			case w.events <- next.event:
			case <-ctx.Done():
			}
		}
	}()
	return w, nil
}

// lateWatcher is a watch whose events come late.
type lateWatcher struct {
	objects.Watcher
	events chan raftstore.Event
}

// Events implements objects.Watcher.
func (w *lateWatcher) Events() <-chan raftstore.Event { return w.events }
