package objects_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

type vmiInformer = objects.Informer[*kubevirtv1.VirtualMachineInstance]

// An informer, and one mapped to other keys, are sources for a controller.
var (
	_ stewards.Source = (*vmiInformer)(nil)
	_ stewards.Source = (*objects.Mapped[*kubevirtv1.VirtualMachineInstance])(nil)
)

// startCache runs a cache until the returned function is called.
func startCache(t *testing.T, s objects.Store) (*objects.Cache, func()) {
	t.Helper()
	cfg := objects.DefaultCacheConfig()
	cfg.Store, cfg.Logger = s, quiet()
	c, err := objects.NewCache(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	return c, func() { cancel(); <-done }
}

// journal writes changes down as text.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) note(c objects.Change[*kubevirtv1.VirtualMachineInstance]) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case c.IsNew():
		j.lines = append(j.lines, "add "+c.New.Name)
	case c.New == nil:
		j.lines = append(j.lines, "delete "+c.Key.Name)
	default:
		j.lines = append(j.lines, "update "+c.New.Name+" "+string(c.New.Status.Phase))
	}
}

func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := j.lines
	j.lines = nil
	return out
}

func setPhase(t *testing.T, s objects.Store, name string, phase kubevirtv1.VirtualMachineInstancePhase) {
	t.Helper()
	old := get(t, s, name)
	next := old.DeepCopy()
	next.Status.Phase = phase
	commit(t, s, func(tx *objects.Tx) { tx.UpdateStatus(old, next) })
}

func TestInformerFollowsTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objectstest.New()
		commit(t, s, func(tx *objects.Tx) { tx.Create(newVMI("a")) })
		cache, stop := startCache(t, s)
		defer stop()
		inf := objects.For[*kubevirtv1.VirtualMachineInstance](cache)
		if objects.For[*kubevirtv1.VirtualMachineInstance](cache) != inf {
			t.Error("a second informer for one kind")
		}
		if err := inf.WaitForSync(t.Context()); err != nil {
			t.Fatal(err)
		}
		var j journal
		cancel := inf.AddHandler(j.note)
		commit(t, s, func(tx *objects.Tx) { tx.Create(newVMI("b")) })
		setPhase(t, s, "a", kubevirtv1.Running)
		a := get(t, s, "a")
		commit(t, s, func(tx *objects.Tx) { tx.Delete(a, objects.DeleteOptions{}) })
		synctest.Wait()
		want := []string{"add a", "add b", "update a Running", "delete a"}
		if got := j.take(); !slices.Equal(got, want) {
			t.Errorf("told %v, want %v", got, want)
		}
		if _, ok := inf.Get(objects.Key{Namespace: "ns", Name: "a"}); ok || len(inf.Keys()) != 1 {
			t.Errorf("a is still there, or %d objects are not 1", len(inf.Keys()))
		}
		cancel()
		commit(t, s, func(tx *objects.Tx) { tx.Create(newVMI("c")) })
		synctest.Wait()
		if got := j.take(); got != nil {
			t.Errorf("told %v after cancel", got)
		}
	})
}

func TestInformerStartsOnAnEmptyStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objectstest.New()
		cache, stop := startCache(t, s)
		defer stop()
		inf := objects.For[*kubevirtv1.VirtualMachineInstance](cache)
		if err := inf.WaitForSync(t.Context()); err != nil {
			t.Fatal(err)
		}
		commit(t, s, func(tx *objects.Tx) { tx.Create(newVMI("a")) })
		synctest.Wait()
		if len(inf.Keys()) != 1 {
			t.Errorf("%d objects, want 1", len(inf.Keys()))
		}
	})
}

func TestInformerRecoversFromLostWatches(t *testing.T) {
	for _, cause := range []error{raftstore.ErrCompacted, raftstore.ErrSlowWatcher} {
		synctest.Test(t, func(t *testing.T) {
			s := objectstest.New()
			for _, name := range []string{"a", "b", "c"} {
				commit(t, s, func(tx *objects.Tx) { tx.Create(newVMI(name)) })
			}
			cache, stop := startCache(t, s)
			defer stop()
			inf := objects.For[*kubevirtv1.VirtualMachineInstance](cache)
			synctest.Wait()
			var j journal
			inf.AddHandler(j.note)
			j.take()
			// What happens while nobody watches is told as a difference.
			s.BreakWatches(cause)
			setPhase(t, s, "a", kubevirtv1.Running)
			b := get(t, s, "b")
			commit(t, s, func(tx *objects.Tx) { tx.Delete(b, objects.DeleteOptions{}) })
			commit(t, s, func(tx *objects.Tx) { tx.Create(newVMI("d")) })
			time.Sleep(time.Minute)
			got := j.take()
			slices.Sort(got)
			want := []string{"add d", "delete b", "update a Running"}
			if !slices.Equal(got, want) {
				t.Errorf("%v: told %v, want %v", cause, got, want)
			}
			setPhase(t, s, "c", kubevirtv1.Failed)
			synctest.Wait()
			if got := j.take(); !slices.Equal(got, []string{"update c Failed"}) {
				t.Errorf("%v: after the recovery told %v", cause, got)
			}
		})
	}
}

func TestInformerKeepsGoingOnABrokenObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objectstest.New()
		cache, stop := startCache(t, s)
		defer stop()
		inf := objects.For[*kubevirtv1.VirtualMachineInstance](cache)
		commit(t, s, func(tx *objects.Tx) {
			tx.Put("/registry/kubevirt.io/virtualmachineinstances/ns/bad", []byte("{"))
			tx.Create(newVMI("good"))
		})
		synctest.Wait()
		if len(inf.Keys()) != 1 {
			t.Errorf("%d objects, want the good one", len(inf.Keys()))
		}
	})
}

func TestMappedSourceNamesOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objectstest.New()
		cache, stop := startCache(t, s)
		defer stop()
		src := objects.Map(objects.For[*kubevirtv1.VirtualMachineInstance](cache), func(c objects.Change[*kubevirtv1.VirtualMachineInstance]) []objects.Key {
			o := c.New
			if o == nil {
				o = c.Old()
			}
			return []objects.Key{{Namespace: o.Namespace, Name: "owner-of-" + o.Name}}
		})
		var mu sync.Mutex
		var keys []string
		src.Subscribe(func(k objects.Key) { mu.Lock(); defer mu.Unlock(); keys = append(keys, k.Name) })
		synctest.Wait()
		a := newVMI("a")
		commit(t, s, func(tx *objects.Tx) { tx.Create(a) })
		commit(t, s, func(tx *objects.Tx) { tx.Delete(a, objects.DeleteOptions{}) })
		synctest.Wait()
		if !slices.Equal(keys, []string{"owner-of-a", "owner-of-a"}) {
			t.Errorf("named %v", keys)
		}
	})
}
