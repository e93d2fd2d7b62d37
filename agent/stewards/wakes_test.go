package stewards_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/stewardstest"
)

// instance is the object that the loops of these tests work on.
var instance = objects.Key{Namespace: "ns", Name: "vm"}

// callTimes are the times of calls since the start.
type callTimes struct {
	begin time.Time

	mu sync.Mutex
	at []time.Duration
}

// note records a call now and returns the number of calls.
func (c *callTimes) note() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = append(c.at, time.Since(c.begin))
	return len(c.at)
}

func (c *callTimes) list() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.at)
}

// loop runs a control loop on instances whose reconciler is act, and returns
// when it was called.
func loop(w *stewardstest.World, act func(ctx context.Context, store objects.Store, vmi *kubevirtv1.VirtualMachineInstance, attempt int) (stewards.Result, error)) *callTimes {
	w.Helper()
	d := w.Host("h1").Deps
	d.Store = stewards.Guard(d.Store)
	vmis := objects.For[*kubevirtv1.VirtualMachineInstance](d.Cache)
	calls := &callTimes{begin: time.Now()}
	c, err := stewards.New(d, stewards.Steward{
		Name: "test", Resync: -1,
		Inputs:  []stewards.Input{stewards.Watch[*kubevirtv1.VirtualMachineInstance](d.Cache)},
		Outputs: []stewards.Output{stewards.WritesStatus[*kubevirtv1.VirtualMachineInstance](), stewards.WritesEvents(), stewards.AsksFor("the level")},
		Reconciler: stewards.ReconcilerFunc(func(ctx context.Context, key stewards.Key) (stewards.Result, error) {
			vmi, ok := vmis.Get(key)
			if !ok {
				return stewards.Result{}, nil
			}
			return act(ctx, d.Store, vmi, calls.note())
		}),
	})
	w.Check(err)
	w.Create(&kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Namespace: instance.Namespace, Name: instance.Name}})
	w.Run(c.Run)
	return calls
}

// say writes a reason into the status.
func say(ctx context.Context, store objects.Store, vmi *kubevirtv1.VirtualMachineInstance, text string) error {
	next := vmi.DeepCopy()
	next.Status.Reason = text
	var tx objects.Tx
	tx.UpdateStatus(vmi, next)
	_, err := tx.Commit(ctx, store)
	return err
}

// A loop that fails and says something else each time is called as often as
// its back-off allows: what it writes does not wake it.
func TestAFailingLoopIsNotWokenByItsOwnStatus(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		calls := loop(w, func(ctx context.Context, store objects.Store, vmi *kubevirtv1.VirtualMachineInstance, attempt int) (stewards.Result, error) {
			text := fmt.Sprintf("only %d MiB are free at %s", attempt, time.Now())
			if err := say(ctx, store, vmi, text); err != nil {
				return stewards.Result{}, err
			}
			return stewards.Result{}, errors.New(text)
		})
		time.Sleep(2 * time.Second)
		want := []time.Duration{0, 100, 300, 700, 1500}
		for i := range want {
			want[i] *= time.Millisecond
		}
		if !slices.Equal(calls.list(), want) {
			t.Errorf("called at %v, want %v", calls.list(), want)
		}
	})
}

// The same for a loop that does not fail, as one that reports why it waits.
func TestALoopThatAlwaysWritesIsSlowedDown(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		calls := loop(w, func(ctx context.Context, store objects.Store, vmi *kubevirtv1.VirtualMachineInstance, attempt int) (stewards.Result, error) {
			return stewards.Result{RequeueAfter: time.Minute}, say(ctx, store, vmi, fmt.Sprint("waiting, attempt ", attempt))
		})
		time.Sleep(time.Hour)
		if n := len(calls.list()); n < 60 || n > 150 {
			t.Errorf("called %d times in an hour, want about once a minute", n)
		}
		if calls.list()[1] != 0 {
			t.Errorf("the second look came after %v, want at once", calls.list()[1])
		}
	})
}

// A change by someone else ends the back-off at once.
func TestAChangeByOthersEndsTheBackoff(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		calls := loop(w, func(ctx context.Context, store objects.Store, vmi *kubevirtv1.VirtualMachineInstance, attempt int) (stewards.Result, error) {
			if vmi.Spec.Hostname == "right" {
				return stewards.Result{}, say(ctx, store, vmi, "")
			}
			return stewards.Result{}, errors.Join(errors.New("wrong host name"), say(ctx, store, vmi, fmt.Sprint("attempt ", attempt)))
		})
		time.Sleep(3 * time.Minute)
		n := len(calls.list())
		old := stewardstest.Get[*kubevirtv1.VirtualMachineInstance](w, instance)
		next := old.DeepCopy()
		next.Spec.Hostname = "right"
		w.Commit(func(tx *objects.Tx) { tx.Update(old, next) })
		synctest.Wait()
		if len(calls.list()) != n+2 && len(calls.list()) != n+1 {
			t.Errorf("%d calls at once after the change, want 1, and 1 to look at the result", len(calls.list())-n)
		}
		if reason := stewardstest.Get[*kubevirtv1.VirtualMachineInstance](w, instance).Status.Reason; reason != "" {
			t.Errorf("the status still says %q", reason)
		}
		n = len(calls.list())
		time.Sleep(time.Hour)
		if len(calls.list()) > n+1 {
			t.Errorf("called %d more times after it succeeded", len(calls.list())-n)
		}
	})
}

// Someone who changes an object all the time does not defeat the back-off.
func TestChangesByOthersAreBounded(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		calls := loop(w, func(context.Context, objects.Store, *kubevirtv1.VirtualMachineInstance, int) (stewards.Result, error) {
			return stewards.Result{}, errors.New("it never works")
		})
		for i := range 6000 {
			old := stewardstest.Get[*kubevirtv1.VirtualMachineInstance](w, instance)
			next := old.DeepCopy()
			next.Spec.Hostname = fmt.Sprint("name-", i)
			w.Commit(func(tx *objects.Tx) { tx.Update(old, next) })
			time.Sleep(10 * time.Millisecond)
		}
		// In a minute: the back-off itself, ten changes at once, one more for
		// every five seconds.
		if n := len(calls.list()); n > 40 {
			t.Errorf("called %d times in a minute, want at most 40", n)
		}
	})
}

// Two loops that want the same field to say different things, and never fail, do
// not overwrite each other as fast as the store can write.
func TestLoopsThatContradictEachOtherAreBounded(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		const limit = 10_000 // ends the test without the bound
		d := w.Host("h1").Deps
		d.Store = stewards.Guard(d.Store)
		vmis := objects.For[*kubevirtv1.VirtualMachineInstance](d.Cache)
		calls := &callTimes{begin: time.Now()}
		for _, name := range []string{"one", "other"} {
			c, err := stewards.New(d, stewards.Steward{
				Name: name, Resync: -1,
				Inputs:  []stewards.Input{stewards.Watch[*kubevirtv1.VirtualMachineInstance](d.Cache)},
				Outputs: []stewards.Output{stewards.WritesStatus[*kubevirtv1.VirtualMachineInstance]()},
				Reconciler: stewards.ReconcilerFunc(func(ctx context.Context, key stewards.Key) (stewards.Result, error) {
					vmi, ok := vmis.Get(key)
					if !ok || vmi.Status.Reason == name || calls.note() > limit {
						return stewards.Result{}, nil
					}
					return stewards.Result{}, say(ctx, d.Store, vmi, name)
				}),
			})
			w.Check(err)
			w.Run(c.Run)
		}
		w.Create(&kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Namespace: instance.Namespace, Name: instance.Name}})
		// The first ones go at once.
		time.Sleep(2 * time.Minute)
		if n := w.Store.Commits(); n > 600 {
			t.Errorf("%d transactions in two minutes", n)
		}
	})
}

func TestUndeclaredWritesAreRefused(t *testing.T) {
	var vmi *kubevirtv1.VirtualMachineInstance
	for name, test := range map[string]struct {
		write   func(tx *objects.Tx)
		refused string // "" if it is allowed
	}{
		"status":    {func(tx *objects.Tx) { next := vmi.DeepCopy(); next.Status.Reason = "x"; tx.Update(vmi, next) }, ""},
		"no change": {func(tx *objects.Tx) { tx.Update(vmi, vmi.DeepCopy()) }, ""},
		"an event": {func(tx *objects.Tx) {
			tx.Create(&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "e"}})
		}, ""},
		"spec": {func(tx *objects.Tx) { next := vmi.DeepCopy(); next.Spec.Hostname = "x"; tx.Update(vmi, next) }, "spec.hostname"},
		"label": {func(tx *objects.Tx) {
			next := vmi.DeepCopy()
			next.Labels = map[string]string{"a": "b"}
			tx.Update(vmi, next)
		}, "metadata.labels"},
		"deletion": {func(tx *objects.Tx) { tx.Delete(vmi, objects.DeleteOptions{}) }, "delete"},
		"creation": {func(tx *objects.Tx) { o := vmi.DeepCopy(); o.Name, o.ResourceVersion = "other", ""; tx.Create(o) }, "create"},
		"another": {func(tx *objects.Tx) {
			tx.Create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}})
		}, "no output"},
		"what it asks for": {func(tx *objects.Tx) { tx.Put("/featurelevel", []byte("2")) }, "no output"},
		"a claim":          {func(tx *objects.Tx) { tx.Put("/claims/x", []byte("{}")) }, "no output"},
		"both": {func(tx *objects.Tx) {
			next := vmi.DeepCopy()
			next.Status.Reason = "x"
			tx.Update(vmi, next)
			tx.Put("/claims/x", nil)
		}, "no output"},
		"event is no": {func(tx *objects.Tx) { tx.Remove("/registry/core/events/ns/none") }, "delete"},
	} {
		t.Run(name, func(t *testing.T) {
			stewardstest.Run(t, func(w *stewardstest.World) {
				w.AllowUndeclared()
				var err error
				loop(w, func(ctx context.Context, store objects.Store, have *kubevirtv1.VirtualMachineInstance, attempt int) (stewards.Result, error) {
					if attempt > 1 {
						return stewards.Result{}, nil
					}
					vmi = have
					var tx objects.Tx
					test.write(&tx)
					_, err = tx.Commit(ctx, store)
					return stewards.Result{}, nil
				})
				synctest.Wait()
				before := w.Store.Commits()
				var refusal *stewards.UndeclaredWriteError
				switch {
				case test.refused == "" && err != nil:
					t.Errorf("refused: %v", err)
				case test.refused != "" && !errors.As(err, &refusal):
					t.Errorf("not refused: %v", err)
				case test.refused != "" && !strings.Contains(refusal.Reason, test.refused):
					t.Errorf("reason %q does not name %q", refusal.Reason, test.refused)
				case test.refused != "" && (before != 1 || len(w.Undeclared()) != 1):
					t.Errorf("%d transactions in all, want the creation only; told of %v", before, w.Undeclared())
				}
			})
		})
	}
}
