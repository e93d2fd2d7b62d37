package host

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/hosttest"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/storage"
	"virtmesh/storage/bounded"
	"virtmesh/storage/storagetest"
)

// hangingPools is a set of a pool "a", whose file system hangs when it is told to, and a
// pool "b" that is well.
func hangingPools(t *testing.T, edit func(*poolOptions)) (start func() *poolSet, dir string) {
	t.Helper()
	state := t.TempDir()
	options := poolOptions{
		pools: []PoolConfig{{Name: "a", Path: filepath.Join(state, "a")}, {Name: "b", Path: filepath.Join(state, "b")}},
		host:  "host1", stateDir: state, log: slog.New(slog.DiscardHandler),
		// The pool that is well has as long as on a real host, so that a busy machine does not make it silent.
		patience: map[string]time.Duration{"a": 2 * time.Second},
	}
	if edit != nil {
		edit(&options)
	}
	return func() *poolSet {
		t.Helper()
		set, err := openPools(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(set.Close)
		return set
	}, options.pools[0].Path
}

// onlyB checks that pool a cannot be used because it does not answer, and that b can be.
func onlyB(t *testing.T, set *poolSet) {
	t.Helper()
	if pools := set.Pools(); len(pools) != 1 || pools["b"] == nil || !errors.Is(set.Unusable("a"), bounded.ErrSilent) {
		t.Fatalf("usable %v, not a: %v", pools, set.Unusable("a"))
	}
	if _, err := set.Pools()["b"].Create(t.Context(), storage.VolumeSpec{Name: "v-" + strings.ToLower(t.Name()[len("Test"):]), Size: 1 << 20}); err != nil {
		t.Errorf("the other pool: %v", err)
	}
	if room := set.Space(); len(room) != 1 || room["b"].Capacity == 0 {
		t.Errorf("the mesh hears of the room %+v", room)
	}
	if told := set.condition(); told.Status != corev1.ConditionFalse || !strings.Contains(told.Message, "pool a") || strings.Contains(told.Message, "pool b") {
		t.Errorf("the Node says %+v", told)
	}
}

// An agent starts and stops while the server of a pool is dead, and uses the pool once the
// server is back.
func TestAgentStartsBesideAPoolThatHangs(t *testing.T) {
	t.Parallel()
	start, dir := hangingPools(t, nil)
	start().Close()
	heal := storagetest.Hang(t, dir)
	began := time.Now()
	set := start()
	onlyB(t, set)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- set.Run(ctx) }()
	stop()
	<-ended
	set.Close()
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it started and stopped in %s", took)
	}
	set = start()
	heal()
	set.tryAll(t.Context()) // what hung fails with an error of the file system
	set.tryAll(t.Context())
	if len(set.Pools()) != 2 || set.condition().Status != corev1.ConditionTrue {
		t.Errorf("the server is back: %v, %+v", set.Pools(), set.condition())
	}
}

// A pool that hangs while it is used fails its callers and nobody else, however often it is
// asked, and no thread more is lost each time.
func TestNothingElseWaitsForAPoolThatHangs(t *testing.T) {
	start, dir := hangingPools(t, nil)
	set := start()
	a := set.Pools()["a"]
	if _, err := a.Create(t.Context(), storage.VolumeSpec{Name: "v", Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	heal := storagetest.Hang(t, dir)
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			if _, err := a.Get(t.Context(), "v"); !errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("a caller of the pool: %v", err)
			}
		})
	}
	set.tryAll(t.Context())
	callers.Wait()
	onlyB(t, set)
	threads := func() int { return pprof.Lookup("threadcreate").Count() }
	set.tryAll(t.Context())
	before := threads()
	for range 100 {
		if _, err := a.Get(t.Context(), "v"); !errors.Is(err, bounded.ErrSilent) {
			t.Fatalf("asked again: %v", err)
		}
		if _, err := a.Usage(t.Context()); !errors.Is(err, bounded.ErrSilent) {
			t.Fatalf("measured: %v", err)
		}
	}
	set.tryAll(t.Context())
	if more := threads() - before; more > 10 {
		t.Errorf("%d threads more after 200 calls", more)
	}
	heal()
	set.tryAll(t.Context())
	set.tryAll(t.Context())
	if _, err := set.Pools()["a"].Get(t.Context(), "v"); err != nil {
		t.Errorf("the volume after the silence: %v", err)
	}
}

// A host's Node, events and metrics tell of a pool that hangs, and that it is back.
func TestAPoolThatHangsIsTold(t *testing.T) {
	t.Parallel()
	w := hosttest.New(t, objectstest.New(claims.Rules()...))
	config := objects.DefaultRecorderConfig()
	config.Store, config.Logger, config.Component, config.Host = w.Store, w.Logger, "virtmesh", "host1"
	recorder, err := objects.NewRecorder(config)
	if err != nil {
		t.Fatal(err)
	}
	start, dir := hangingPools(t, func(o *poolOptions) {
		o.nodes, o.events = objects.For[*corev1.Node](w.Cache), recorder
	})
	events := objects.For[*corev1.Event](w.Cache)
	start().Close()
	heal := storagetest.Hang(t, dir)
	set := start()
	w.Start(recorder.Run, func(ctx context.Context) { _ = set.tellChanges(ctx) })
	w.Commit(func(tx *objects.Tx) { tx.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "host1"}}) })
	told := func(reason string) func() bool {
		return func() bool {
			for _, event := range events.List("") {
				if event.Reason == reason && event.InvolvedObject.Name == "host1" {
					return true
				}
			}
			return false
		}
	}
	w.AwaitShown(told(reasonPoolUnavailable))
	usable := func() float64 {
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(set)
		count, err := testutil.GatherAndCount(registry, "virtmesh_pool_usable")
		if err != nil || count != 2 {
			t.Fatalf("%d series, %v", count, err)
		}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, metric := range family.GetMetric() {
				if family.GetName() == "virtmesh_pool_usable" && metric.GetLabel()[0].GetValue() == "a" {
					return metric.GetGauge().GetValue()
				}
			}
		}
		return -1
	}
	if usable() != 0 {
		t.Error("the metric says that a pool that hangs can be used")
	}
	heal()
	set.tryAll(t.Context())
	set.tryAll(t.Context())
	w.AwaitShown(told(reasonPoolAvailable))
	if usable() != 1 {
		t.Error("the metric says that a pool that is back cannot be used")
	}
}

// doctor says which pool hangs, and does not hang itself.
func TestCheckOfAPoolThatHangs(t *testing.T) {
	t.Parallel()
	start, dir := hangingPools(t, nil)
	start()
	storagetest.Hang(t, dir)
	if err := CheckPool(PoolConfig{Name: "a", Path: dir}, filepath.Dir(dir)); !errors.Is(err, bounded.ErrSilent) {
		t.Errorf("got %v", err)
	}
}
