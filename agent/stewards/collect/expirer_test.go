package collect

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/stewardstest"
	"virtmesh/raftstore"
)

// counting counts the records of events that it hands out: each is decoded.
type counting struct {
	objects.Store
	events atomic.Int64
}

// List implements objects.Store.
func (c *counting) List(ctx context.Context, req raftstore.ListRequest) (raftstore.ListResult, error) {
	res, err := c.Store.List(ctx, req)
	if strings.HasPrefix(req.Prefix, eventsPrefix) {
		c.events.Add(int64(len(res.Records)))
	}
	return res, err
}

// startExpirer starts the expirer of a host on a store that counts.
func startExpirer(w *stewardstest.World, host string) *counting {
	w.Helper()
	deps := w.Host(host).Deps
	store := &counting{Store: deps.Store}
	deps.Store = store
	e, err := NewExpirer(deps)
	w.Check(err)
	w.Host(host).Start(e.Run)
	return store
}

// createEvents creates n events that happen so long from now.
func createEvents(w *stewardstest.World, n int, name string, from time.Duration) {
	w.Helper()
	w.Commit(func(tx *objects.Tx) {
		for i := range n {
			tx.Create(&corev1.Event{
				ObjectMeta:    metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint(name, i)},
				LastTimestamp: metav1.NewTime(time.Now().Add(from)),
			})
		}
	})
}

func TestOldEventsExpire(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		// Two hosts: one of them does it.
		for _, host := range []string{"h1", "h2"} {
			startExpirer(w, host)
		}
		createEvents(w, 450, "old", 0)
		time.Sleep(40 * time.Minute)
		createEvents(w, 3, "new", 0)
		if n := w.CommitsDuring(30 * time.Minute); n != 3 {
			t.Errorf("%d transactions to delete 450 events, want 3", n)
		}
		if n := len(w.Names(eventsPrefix)); n != 3 {
			t.Errorf("%d events, want the 3 new ones", n)
		}
	})
}

// An event is read when the host begins and when it is due, and not every five minutes
// in between.
func TestEventsAreReadOnce(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		for i := range 11 { // five minutes apart, as if others had written them
			createEvents(w, 10, fmt.Sprint("before", i, "-"), 0)
			time.Sleep(5 * time.Minute)
		}
		store := startExpirer(w, "h1")
		time.Sleep(time.Minute)
		if n := store.events.Load(); n != 110 {
			t.Errorf("%d events were read at the start, want all 110", n)
		}
		createEvents(w, 100, "after", 0)
		time.Sleep(3 * time.Minute)
		before := store.events.Load()
		for left := 10; left >= 0; left-- {
			time.Sleep(5 * time.Minute)
			if n := len(w.Names(eventsPrefix)) - 100; n > 10*(left+2) {
				t.Errorf("%d of the first events are left, want at most %d", n, 10*(left+2))
			}
		}
		time.Sleep(15 * time.Minute)
		if n := w.Names(eventsPrefix); len(n) != 0 {
			t.Errorf("%d events are left two hours later", len(n))
		}
		if n := store.events.Load() - before; n != 210 {
			t.Errorf("%d events were read to delete 210", n)
		}
	})
}

// Times that writers set are kept: an event of the future stays, and does not keep
// others; one that was old when it was written goes within two hours.
func TestEventsWithTimesOfTheirOwn(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		createEvents(w, 1, "future", 3*time.Hour)
		createEvents(w, 1, "now", 0)
		startExpirer(w, "h1")
		time.Sleep(10 * time.Minute)
		createEvents(w, 1, "late", 3*time.Hour)
		createEvents(w, 1, "past", -2*time.Hour)
		time.Sleep(110 * time.Minute)
		for _, name := range w.Names(eventsPrefix) {
			if !strings.Contains(name, "future") && !strings.Contains(name, "late") {
				t.Errorf("%s is left", name)
			}
		}
		if n := len(w.Names(eventsPrefix)); n != 2 {
			t.Errorf("%d events are left, want the two of the future", n)
		}
		time.Sleep(3 * time.Hour)
		if n := w.Names(eventsPrefix); len(n) != 0 {
			t.Errorf("%v are left five hours later", n)
		}
	})
}
