package stewards

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// keys is a Source whose keys a test sets.
type keys struct {
	mu    sync.Mutex
	known []Key
	subs  []func(Key)
}

func (s *keys) Subscribe(fn func(Key)) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs = append(s.subs, fn)
	for _, k := range s.known {
		fn(k)
	}
	return func() {}
}

func (s *keys) Keys() []Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.known)
}

func (s *keys) WaitForSync(context.Context) error { return nil }

func (s *keys) notify(k Key) {
	s.mu.Lock()
	subs := slices.Clone(s.subs)
	s.mu.Unlock()
	for _, fn := range subs {
		fn(k)
	}
}

var _ Source = (*keys)(nil)

// mesh is a Members whose set a test changes.
type mesh struct {
	mu    sync.Mutex
	names []string
	subs  []func()
}

func (m *mesh) Members() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.names)
}

func (m *mesh) Subscribe(fn func()) func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.subs = append(m.subs, fn)
	return func() {}
}

func (m *mesh) set(names ...string) {
	m.mu.Lock()
	m.names = names
	subs := slices.Clone(m.subs)
	m.mu.Unlock()
	for _, fn := range subs {
		fn()
	}
}

var _ Members = (*mesh)(nil)

// log records which keys were handled.
type handled struct {
	mu   sync.Mutex
	seen map[Key]int
}

func (h *handled) add(k Key) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen == nil {
		h.seen = map[Key]int{}
	}
	h.seen[k]++
	return h.seen[k]
}

func (h *handled) count(k Key) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen[k]
}

// quiet are deps of a loop that stores nothing.
func quiet() Deps { return Deps{Logger: slog.New(slog.DiscardHandler)} }

func testSteward(src Source, r ReconcilerFunc) Steward {
	return Steward{Name: "test", Reconciler: r, Inputs: []Input{{What: "test", Wakes: "itself", Source: src}}, Resync: -1}
}

// start runs a controller in the bubble and returns what stops and waits.
func start(t *testing.T, d Deps, s Steward) (*Controller, func()) {
	t.Helper()
	c, err := New(d, s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return c, func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func key(i int) Key { return Key{Namespace: "ns", Name: fmt.Sprint("obj-", i)} }

func TestFailureIsRetriedWithDoublingBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		t0 := time.Now()
		src := &keys{known: []Key{key(1)}}
		_, stop := start(t, quiet(), testSteward(src, func(context.Context, Key) (Result, error) {
			at = append(at, time.Since(t0))
			if len(at) < 4 {
				return Result{}, errors.New("not yet")
			}
			return Result{}, nil
		}))
		time.Sleep(time.Hour)
		stop()
		want := []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond}
		if !slices.Equal(at, want) {
			t.Errorf("attempts at %v, want %v", at, want)
		}
	})
}

// Work that goes on elsewhere and fails each time is begun ever more slowly.
func TestPendingKeepsTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failures []time.Duration
		t0 := time.Now()
		src := &keys{known: []Key{key(1)}}
		begun := false
		_, stop := start(t, quiet(), testSteward(src, func(context.Context, Key) (Result, error) {
			if begun = !begun; begun {
				return Result{Pending: true, RequeueAfter: time.Nanosecond}, nil
			}
			failures = append(failures, time.Since(t0).Round(time.Millisecond))
			return Result{}, errors.New("the pull failed")
		}))
		time.Sleep(time.Second)
		stop()
		want := []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond}
		if !slices.Equal(failures, want) {
			t.Errorf("failed at %v, want %v", failures, want)
		}
	})
}

func TestRequeueAfterAndResync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h handled
		src := &keys{known: []Key{key(1)}}
		cfg := testSteward(src, func(_ context.Context, k Key) (Result, error) {
			if h.add(k) == 1 {
				return Result{RequeueAfter: time.Minute}, nil
			}
			return Result{}, nil
		})
		cfg.Resync = time.Hour
		_, stop := start(t, quiet(), cfg)
		time.Sleep(59 * time.Second)
		if n := h.count(key(1)); n != 1 {
			t.Errorf("handled %d times before RequeueAfter, want 1", n)
		}
		time.Sleep(2 * time.Second)
		if n := h.count(key(1)); n != 2 {
			t.Errorf("handled %d times after RequeueAfter, want 2", n)
		}
		time.Sleep(90 * time.Minute)
		if n := h.count(key(1)); n != 3 {
			t.Errorf("handled %d times after a resync, want 3", n)
		}
		stop()
	})
}

func TestPanicIsContainedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h handled
		src := &keys{known: []Key{key(1), key(2)}}
		cfg := testSteward(src, func(_ context.Context, k Key) (Result, error) {
			if h.add(k) == 1 && k == key(1) {
				panic("broken object")
			}
			return Result{}, nil
		})
		cfg.Workers = 1
		reg := prometheus.NewRegistry()
		deps := quiet()
		deps.Registerer = reg
		c, stop := start(t, deps, cfg)
		time.Sleep(time.Second)
		if h.count(key(1)) != 2 || h.count(key(2)) != 1 {
			t.Errorf("handled %d and %d times, want 2 and 1", h.count(key(1)), h.count(key(2)))
		}
		if n := testutil.ToFloat64(c.metrics.panics); n != 1 {
			t.Errorf("panics metric %v, want 1", n)
		}
		stop()
		if got, err := reg.Gather(); err != nil || len(got) != 0 {
			t.Errorf("metrics left after Run: %v, %v", got, err)
		}
	})
}

func TestOneKeyIsNeverHandledTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		active, most, total := 0, 0, 0
		src := &keys{}
		_, stop := start(t, quiet(), testSteward(src, func(context.Context, Key) (Result, error) {
			mu.Lock()
			active++
			total++
			most = max(most, active)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			active--
			mu.Unlock()
			return Result{}, nil
		}))
		synctest.Wait()
		for range 10 {
			src.notify(key(1))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		stop()
		if most != 1 || total != 2 {
			t.Errorf("at most %d at once and %d in all, want 1 and 2", most, total)
		}
	})
}

func TestStopWaitsForTheWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		finished := false
		src := &keys{known: []Key{key(1)}}
		_, stop := start(t, quiet(), testSteward(src, func(ctx context.Context, _ Key) (Result, error) {
			<-ctx.Done()
			time.Sleep(time.Second)
			finished = true
			return Result{}, ctx.Err()
		}))
		synctest.Wait()
		stop()
		if !finished {
			t.Error("Run returned before its worker")
		}
	})
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	good := testSteward(&keys{}, func(context.Context, Key) (Result, error) { return Result{}, nil })
	if _, err := New(quiet(), good); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Deps{}, good); err == nil || !strings.Contains(err.Error(), "Logger") {
		t.Errorf("without a logger: %v", err)
	}
	for name, spoil := range map[string]func(*Steward){
		"Name":       func(s *Steward) { s.Name = "" },
		"Reconciler": func(s *Steward) { s.Reconciler = nil },
		"input":      func(s *Steward) { s.Inputs = []Input{{What: "read only"}} },
		"Workers":    func(s *Steward) { s.Workers = -1 },
		"MaxBackoff": func(s *Steward) { s.MaxBackoff = time.Millisecond },
		"Timeout":    func(s *Steward) { s.Timeout = -1 },
	} {
		broken := good
		spoil(&broken)
		if _, err := New(quiet(), broken); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
