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

// An event is read when it is due, and not before.
func TestEventsAreReadOnce(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		createEvents(w, 110, "before", 0)
		store := startExpirer(w, "h1")
		for i := range 11 {
			time.Sleep(5 * time.Minute)
			createEvents(w, 10, fmt.Sprint("after", i, "-"), 0)
		}
		if n := store.events.Load(); n != 0 {
			t.Errorf("%d events were read before any was due", n)
		}
		time.Sleep(5 * time.Minute)
		for left := 10; left >= 0; left-- {
			time.Sleep(5 * time.Minute)
			if n := len(w.Names(eventsPrefix)); n > 10*(left+3) {
				t.Errorf("%d events are left, want at most %d", n, 10*(left+3))
			}
		}
		time.Sleep(15 * time.Minute)
		if n := w.Names(eventsPrefix); len(n) != 0 {
			t.Errorf("%d events are left", len(n))
		}
		if n := store.events.Load(); n != 220 {
			t.Errorf("%d events were read to delete 220", n)
		}
	})
}

// How old an event is does not depend on its times: clocks of hosts differ.
func TestTimesOfEventsDoNotMatter(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		createEvents(w, 1, "future", 300*time.Hour)
		createEvents(w, 1, "past", -300*time.Hour)
		w.Host("h1").Deps.Clock = func() time.Time { return time.Now().Add(3 * time.Hour) }
		startExpirer(w, "h1")
		time.Sleep(55 * time.Minute)
		if n := w.Names(eventsPrefix); len(n) != 2 {
			t.Errorf("%v are left before an hour has passed", n)
		}
		time.Sleep(15 * time.Minute)
		if n := w.Names(eventsPrefix); len(n) != 0 {
			t.Errorf("%v are left after more than an hour", n)
		}
	})
}
