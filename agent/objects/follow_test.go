package objects_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"
	"pgregory.net/rapid"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
)

// mirror is what a handler knows when it believes every change that it is told.
type mirror struct {
	mu     sync.Mutex
	have   map[string]string // resourceVersion by name
	seen   map[string]uint64 // the highest revision told of a name
	faults []string
}

func newMirror() *mirror { return &mirror{have: map[string]string{}, seen: map[string]uint64{}} }

func (m *mirror) fault(format string, args ...any) {
	m.faults = append(m.faults, fmt.Sprintf(format, args...))
}

// note applies a change and checks that it follows what was told before.
func (m *mirror) note(c objects.Change[*kubevirtv1.VirtualMachineInstance]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was, now, name := "", "", ""
	if old := c.Old(); old != nil {
		was, name = old.ResourceVersion, old.Name
	}
	if c.New != nil {
		now, name = c.New.ResourceVersion, c.New.Name
	}
	if m.have[name] != was {
		m.fault("%s changes from %q, and was last told to be %q", name, was, m.have[name])
	}
	if c.Revision != 0 && c.Revision <= m.seen[name] {
		m.fault("%s: told revision %d after %d", name, c.Revision, m.seen[name])
	}
	m.seen[name] = max(m.seen[name], c.Revision)
	m.have[name] = now
	if now == "" {
		delete(m.have, name)
	}
}

// check compares with the store.
func (m *mirror) check(t *rapid.T, who string, want map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, fault := range m.faults {
		t.Errorf("%s: %s", who, fault)
	}
	if fmt.Sprint(m.have) != fmt.Sprint(want) {
		t.Errorf("%s was told %v, the store has %v", who, m.have, want)
	}
}

// Whatever is written, and whenever watches break, an informer ends with what the store
// has, and each handler was told of it in order, without a gap.
func TestInformersMissNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.SampledFrom([]string{"create", "update", "delete", "recreate", "break", "wait", "handler"}), 1, 40).Draw(rt, "steps")
		names := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), len(steps), len(steps)).Draw(rt, "names")
		synctest.Test(t, func(t *testing.T) { follow(t, rt, steps, names) })
	})
}

func follow(t *testing.T, rt *rapid.T, steps, names []string) {
	s := objectstest.New()
	cache, stop := startCache(t, s)
	defer stop()
	inf := objects.For[*kubevirtv1.VirtualMachineInstance](cache)
	mirrors := []*mirror{newMirror()}
	inf.AddHandler(mirrors[0].note)
	for i, step := range steps {
		var tx objects.Tx
		have, err := objects.Get[*kubevirtv1.VirtualMachineInstance](t.Context(), s, objects.Key{Namespace: "ns", Name: names[i]}, raftstore.ReadOptions{})
		exists := err == nil
		switch {
		case step == "create" && !exists:
			tx.Create(newVMI(names[i]))
		case step == "update" && exists:
			next := have.DeepCopy()
			next.Labels = map[string]string{"step": fmt.Sprint(i)}
			tx.Update(have, next)
		case (step == "delete" || step == "recreate") && exists:
			tx.Delete(have, objects.DeleteOptions{})
		case step == "break":
			s.BreakWatches([]error{raftstore.ErrCompacted, raftstore.ErrSlowWatcher, raftstore.ErrClosed}[i%3])
		case step == "wait":
			time.Sleep(time.Duration(i) * 100 * time.Millisecond)
		case step == "handler":
			m := newMirror()
			mirrors = append(mirrors, m)
			inf.AddHandler(m.note)
		}
		if _, err := tx.Commit(t.Context(), s); err != nil {
			rt.Fatal(err)
		}
		if step == "recreate" {
			commit(t, s, func(tx *objects.Tx) { tx.Create(newVMI(names[i])) })
		}
	}
	time.Sleep(time.Minute)
	want := map[string]string{}
	list, _, err := objects.List[*kubevirtv1.VirtualMachineInstance](t.Context(), s, "", raftstore.ReadOptions{})
	if err != nil {
		rt.Fatal(err)
	}
	cached := map[string]string{}
	for _, vmi := range list {
		want[vmi.Name] = vmi.ResourceVersion
	}
	for _, vmi := range inf.List("") {
		cached[vmi.Name] = vmi.ResourceVersion
	}
	if fmt.Sprint(cached) != fmt.Sprint(want) {
		rt.Errorf("the informer has %v, the store %v", cached, want)
	}
	for i, m := range mirrors {
		m.check(rt, fmt.Sprintf("handler %d", i), want)
	}
}

// All handlers are told in the order in which they were added, one change at a time.
func TestHandlersAreToldInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objectstest.New()
		cache, stop := startCache(t, s)
		defer stop()
		inf := objects.For[*kubevirtv1.VirtualMachineInstance](cache)
		synctest.Wait()
		var mu sync.Mutex
		var told []string
		note := func(who string) func(objects.Key) {
			return func(key objects.Key) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, who+" "+key.Name)
			}
		}
		inf.Subscribe(note("first"))
		inf.Subscribe(note("second"))
		for _, name := range []string{"b", "a"} {
			commit(t, s, func(tx *objects.Tx) { tx.Create(newVMI(name)) })
		}
		synctest.Wait()
		if want := []string{"first b", "second b", "first a", "second a"}; !slices.Equal(told, want) {
			t.Errorf("told %v, want %v", told, want)
		}
		var names []string
		for _, vmi := range inf.List("ns") {
			names = append(names, vmi.Name)
		}
		if !slices.Equal(names, []string{"a", "b"}) || len(inf.List("elsewhere")) != 0 {
			t.Errorf("listed %v; want them by name, and none elsewhere", names)
		}
	})
}

// records is a sink that writes down what it is told.
type records struct {
	mu    sync.Mutex
	lines []string
}

// Reset implements objects.Sink.
func (r *records) Reset(recs []raftstore.Record, revision uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	line := fmt.Sprintf("reset at %d:", revision)
	for _, rec := range recs {
		line += " " + rec.Key
	}
	r.lines = append(r.lines, line)
}

// Apply implements objects.Sink.
func (r *records) Apply(ev raftstore.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf("%v %s at %d", ev.Type == raftstore.Delete, ev.Record.Key, ev.Revision))
}

// Records that are not objects are followed in the same way, below their prefix only.
func TestRecordsBelowAPrefix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objectstest.New()
		commit(t, s, func(tx *objects.Tx) { tx.Put("/claims/a", []byte("1")); tx.Put("/other/a", []byte("1")) })
		cache, stop := startCache(t, s)
		defer stop()
		var sink records
		cache.Records("/claims/", &sink)
		synctest.Wait()
		commit(t, s, func(tx *objects.Tx) { tx.Put("/claims/b", []byte("2")); tx.Put("/other/b", []byte("2")) })
		commit(t, s, func(tx *objects.Tx) { tx.Remove("/claims/a") })
		synctest.Wait()
		want := []string{"reset at 3: /claims/a", "false /claims/b at 4", "true /claims/a at 6"}
		if !slices.Equal(sink.lines, want) {
			t.Errorf("told %q, want %q", sink.lines, want)
		}
	})
}

func TestWaitForSyncEndsWithItsContext(t *testing.T) {
	cfg := objects.DefaultCacheConfig()
	cfg.Store, cfg.Logger = objectstest.New(), quiet()
	cache, err := objects.NewCache(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(context.DeadlineExceeded)
	// Nobody runs the cache.
	if err := objects.For[*kubevirtv1.VirtualMachineInstance](cache).WaitForSync(ctx); err != context.DeadlineExceeded {
		t.Errorf("got %v, want why the wait ended", err)
	}
}

func TestCacheConfigIsChecked(t *testing.T) {
	for name, spoil := range map[string]func(*objects.CacheConfig){
		"no store":         func(c *objects.CacheConfig) { c.Store = nil },
		"no logger":        func(c *objects.CacheConfig) { c.Logger = nil },
		"no delay":         func(c *objects.CacheConfig) { c.RetryMin = 0 },
		"delays reversed":  func(c *objects.CacheConfig) { c.RetryMax = c.RetryMin - 1 },
		"nothing is wrong": func(*objects.CacheConfig) {},
	} {
		cfg := objects.DefaultCacheConfig()
		cfg.Store, cfg.Logger = objectstest.New(), quiet()
		spoil(&cfg)
		if _, err := objects.NewCache(cfg); (err == nil) != (name == "nothing is wrong") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
