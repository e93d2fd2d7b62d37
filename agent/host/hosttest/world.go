// Package hosttest holds what the tests of a host's loops share: a store in memory, and a
// cache that follows it.
package hosttest

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
)

// showTimeout bounds how long a change may take to appear in the cache.
const showTimeout = time.Minute

// World is a mesh as one host sees it: a store, and a cache that follows the store after
// Start.
type World struct {
	t      testing.TB
	Store  *objectstest.Store
	Cache  *objects.Cache
	Logger *slog.Logger
}

// New returns a World of the store. Its cache is filled after Start.
func New(t testing.TB, store *objectstest.Store) *World {
	t.Helper()
	w := &World{t: t, Store: store, Logger: slog.New(slog.DiscardHandler)}
	config := objects.DefaultCacheConfig()
	config.Store, config.Logger = store, w.Logger
	var err error
	if w.Cache, err = objects.NewCache(config); err != nil {
		t.Fatal(err)
	}
	return w
}

// Start runs the cache and loops until the test ends. Informers and sinks of the cache
// are made before.
func (w *World) Start(loops ...func(ctx context.Context)) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	var wg sync.WaitGroup
	for _, loop := range append(loops, w.Cache.Run) {
		wg.Go(func() { loop(ctx) })
	}
	w.t.Cleanup(func() { cancel(); wg.Wait() })
}

// Commit commits one transaction, which must not fail.
func (w *World) Commit(build func(tx *objects.Tx)) {
	w.t.Helper()
	var tx objects.Tx
	build(&tx)
	if _, err := tx.Commit(w.t.Context(), w.Store); err != nil {
		w.t.Fatal(err)
	}
}

// AwaitShown waits until cond holds, which reads the cache or what follows from it.
func (w *World) AwaitShown(cond func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(showTimeout); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatal("the cache does not show the change")
		}
	}
}
