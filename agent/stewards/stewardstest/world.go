// Package stewardstest runs control loops in a test as they run in a mesh: the
// real engine, caches and recorders, on a store in memory, in a bubble of fake
// time (testing/synctest).
//
// A World holds the store and the membership. A Host of it has what an agent
// lends to its loops. Tests create objects, let time pass, and look at what is
// stored; a loop that writes what it does not declare fails the test.
package stewardstest

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// World is a mesh of hosts that share one store.
type World struct {
	testing.TB
	// Store is what all hosts see. It judges claims by their rules.
	Store *objectstest.Store
	// Members is who is alive.
	Members *Members

	ctx   context.Context
	wg    sync.WaitGroup
	hosts map[string]*Host

	mu         sync.Mutex
	allowed    bool
	undeclared []error
}

// Run calls test with a world in a bubble of fake time, and then ends all loops
// that the test has started.
func Run(t *testing.T, test func(w *World)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		w := &World{
			TB: t, Store: objectstest.New(claims.Rules()...), Members: &Members{}, ctx: ctx, hosts: map[string]*Host{},
		}
		defer w.wg.Wait()
		defer cancel()
		test(w)
	})
}

// Host is one host of a world.
type Host struct {
	// Name is its name.
	Name string
	// Deps is what its loops are made with.
	Deps stewards.Deps

	world  *World
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Host returns the host of a name, which becomes a live member when it is first
// asked for.
func (w *World) Host(name string) *Host {
	w.Helper()
	if h, ok := w.hosts[name]; ok {
		return h
	}
	h := &Host{Name: name, world: w}
	h.ctx, h.cancel = context.WithCancel(w.ctx)
	w.Members.add(name)
	h.Deps = w.deps(name)
	w.hosts[name] = h
	h.Start(func(ctx context.Context) error { h.Deps.Cache.Run(ctx); return nil })
	return h
}

// deps makes what an agent lends to its loops.
func (w *World) deps(host string) stewards.Deps {
	w.Helper()
	log := slog.New(slog.DiscardHandler)
	cacheConfig := objects.DefaultCacheConfig()
	cacheConfig.Store, cacheConfig.Logger = w.Store, log
	cache, err := objects.NewCache(cacheConfig)
	w.Check(err)
	recorderConfig := objects.DefaultRecorderConfig()
	recorderConfig.Store, recorderConfig.Component, recorderConfig.Host, recorderConfig.Logger = w.Store, "virtmesh", host, log
	recorder, err := objects.NewRecorder(recorderConfig)
	w.Check(err)
	return stewards.Deps{
		Store: stewards.Guard(w.Store), Cache: cache, Claims: claims.NewCache(cache, log), Recorder: recorder,
		Stewardship: stewards.NewStewardship(stewards.StewardshipConfig{Self: host, Members: w.Members}), Logger: log, Undeclared: w.noteUndeclared,
	}
}

// Start runs a loop of the host until the host is killed or the test ends. An
// error of the loop fails the test.
func (h *Host) Start(run func(context.Context) error) {
	h.world.wg.Add(1)
	h.wg.Go(func() {
		defer h.world.wg.Done()
		if err := run(h.ctx); err != nil {
			h.world.Errorf("%s: %v", h.Name, err)
		}
	})
}

// Kill ends all loops of the host in the middle of their work, and then removes
// the host from the live members.
func (h *Host) Kill() {
	h.cancel()
	h.wg.Wait()
	h.world.Members.remove(h.Name)
}

// Run starts a loop on the first host, "h1".
func (w *World) Run(run func(context.Context) error) {
	w.Helper()
	w.Host("h1").Start(run)
}

// Check ends the test if err is not nil.
func (w *World) Check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// Settle waits until everything that is due has happened, retries after lost
// races included.
func (w *World) Settle() { time.Sleep(10 * time.Second) }

// Commit writes a transaction and waits until the loops have nothing to do
// until time passes.
func (w *World) Commit(build func(tx *objects.Tx)) {
	w.Helper()
	var tx objects.Tx
	build(&tx)
	_, err := tx.Commit(w.ctx, w.Store)
	w.Check(err)
	synctest.Wait()
}

// Create writes new objects in one transaction.
func (w *World) Create(objs ...objects.Object) {
	w.Helper()
	w.Commit(func(tx *objects.Tx) {
		for _, o := range objs {
			tx.Create(o)
		}
	})
}

// CommitsDuring returns how many transactions change the store while d passes.
func (w *World) CommitsDuring(d time.Duration) int {
	before := w.Store.Commits()
	time.Sleep(d)
	return int(w.Store.Commits() - before)
}

// Names returns the names of the objects below a prefix of store keys, without
// the prefix.
func (w *World) Names(prefix string) []string {
	names := w.Store.Keys(prefix)
	for i := range names {
		names[i] = strings.TrimPrefix(names[i], prefix)
	}
	return names
}

// Get returns an object; nil if there is none.
func Get[T objects.Object](w *World, key objects.Key) T {
	w.Helper()
	o, err := objects.Get[T](w.ctx, w.Store, key, raftstore.ReadOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		w.Fatal(err)
	}
	return o
}

// List returns all objects of a kind.
func List[T objects.Object](w *World) []T {
	w.Helper()
	all, _, err := objects.List[T](w.ctx, w.Store, "", raftstore.ReadOptions{})
	w.Check(err)
	return all
}

// Edit changes an object that exists. It tries again as often as a loop changes
// the object first.
func Edit[T objects.Object](w *World, key objects.Key, change func(T)) {
	w.Helper()
	w.act(func(tx *objects.Tx) {
		old := Get[T](w, key)
		next := old.DeepCopyObject().(T)
		change(next)
		tx.Update(old, next)
	})
}

// Delete asks for the deletion of an object that exists. It tries again as
// often as a loop changes the object first.
func Delete[T objects.Object](w *World, key objects.Key, opts objects.DeleteOptions) {
	w.Helper()
	w.act(func(tx *objects.Tx) { tx.Delete(Get[T](w, key), opts) })
}

// act commits the transaction that build makes, and builds and commits it again
// after a lost race.
func (w *World) act(build func(tx *objects.Tx)) {
	w.Helper()
	for {
		var tx objects.Tx
		build(&tx)
		_, err := tx.Commit(w.ctx, w.Store)
		if apierrors.IsConflict(err) {
			continue
		}
		w.Check(err)
		synctest.Wait()
		return
	}
}

// AllowUndeclared keeps undeclared writes from failing the test. Tests of the
// refusal use it.
func (w *World) AllowUndeclared() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.allowed = true
}

// Undeclared returns the refusals so far.
func (w *World) Undeclared() []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.undeclared)
}

func (w *World) noteUndeclared(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.undeclared = append(w.undeclared, err)
	if !w.allowed {
		w.Error(err)
	}
}
