package operation

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/stewardstest"
)

const testType meshv1alpha1.OperationType = "Test"

var opKey = objects.Key{Name: "op"}

// site is the world that the steps act on. It knows who acts on it.
type site struct {
	mu   sync.Mutex
	done []string // effects, in order
	log  []string // calls: "host step"
	busy int
	most int // calls at the same time
}

func (s *site) enter(call string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, call)
	s.busy++
	s.most = max(s.most, s.busy)
}

func (s *site) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
}

// underWay is how many calls have not returned yet.
func (s *site) underWay() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy
}

// take has the effect of a step, once.
func (s *site) take(step string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.done, step) {
		s.done = append(s.done, step)
	}
}

func (s *site) drop(step string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = slices.DeleteFunc(s.done, func(d string) bool { return d == step })
}

func (s *site) effects() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.done)
}

// calls are "host step", in order.
func (s *site) calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// mostAtOnce is how many calls there were at the same time.
func (s *site) mostAtOnce() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

// behaviour says what a step does besides its effect; nil: nothing.
type behaviour func(ctx context.Context, host, step string, report func(done, total int64)) error

// startHosts runs the loop on three hosts.
func startHosts(w *stewardstest.World, s *site, names []string, before, after behaviour) {
	for _, host := range []string{"h1", "h2", "h3"} {
		plan := func(*Object) []Step {
			var steps []Step
			for _, name := range names {
				steps = append(steps, Step{
					Name: name,
					Do: func(ctx context.Context, report func(done, total int64)) error {
						s.enter(host + " " + name)
						defer s.leave()
						if before != nil {
							if err := before(ctx, host, name, report); err != nil {
								return err
							}
						}
						s.take(name)
						if after != nil {
							return after(ctx, host, name, report)
						}
						return nil
					},
				})
			}
			// The first step can be taken back.
			steps[0].Undo = func(context.Context) error { s.drop(names[0]); return nil }
			return steps
		}
		c, err := New(w.Host(host).Deps, host, Acts{testType: {Plan: plan}})
		w.Check(err)
		w.Host(host).Start(c.Run)
	}
	w.Create(&Object{ObjectMeta: metav1.ObjectMeta{Name: opKey.Name}, Spec: meshv1alpha1.OperationSpec{Type: testType, Target: "x"}})
}

func get(w *stewardstest.World) *Object {
	w.Helper()
	return stewardstest.Get[*Object](w, opKey)
}

var steps = []string{"one", "two", "three", "four"}

func TestStepsAreDoneInOrder(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		var s site
		startHosts(w, &s, steps, nil, nil)
		w.Settle()
		op := get(w)
		if op.Status.Phase != meshv1alpha1.OperationSucceeded || op.Status.Ended == nil || !slices.Equal(s.effects(), steps) || len(s.calls()) != len(steps) {
			t.Errorf("%+v after %v", op.Status, s.calls())
		}
		for _, step := range op.Status.Steps {
			if step.Phase != meshv1alpha1.StepDone || step.Started == nil || step.Ended == nil {
				t.Errorf("step %+v", step)
			}
		}
		// Creation, owner, one for each step, the end.
		if n := w.Store.Commits(); n > uint64(len(steps))+3 {
			t.Errorf("%d transactions for %d steps", n, len(steps))
		}
		if n := w.CommitsDuring(20 * time.Hour); n != 0 {
			t.Errorf("%d transactions after the end", n)
		}
		time.Sleep(5 * time.Hour)
		if get(w) != nil {
			t.Error("it is still there after a day")
		}
	})
}

// The owner dies in every step, before and after its effect. Another host goes
// on, and no step is carried out by two hosts at once.
func TestTheOwnersDeathAtEveryStep(t *testing.T) {
	for _, moment := range []string{"before", "after"} {
		for _, fatal := range steps {
			t.Run(moment+" "+fatal, func(t *testing.T) {
				stewardstest.Run(t, func(w *stewardstest.World) {
					var s site
					var once sync.Once
					var wg sync.WaitGroup
					defer wg.Wait()
					die := func(ctx context.Context, host, step string, _ func(done, total int64)) error {
						if step != fatal {
							return nil
						}
						killed := false
						once.Do(func() { killed = true })
						if !killed {
							return nil
						}
						wg.Go(w.Host(host).Kill)
						<-ctx.Done()
						return ctx.Err()
					}
					before, after := behaviour(nil), behaviour(die)
					if moment == "before" {
						before, after = die, nil
					}
					startHosts(w, &s, steps, before, after)
					time.Sleep(time.Minute)
					op := get(w)
					if op.Status.Phase != meshv1alpha1.OperationSucceeded || op.Status.Owner.Epoch != 2 {
						t.Errorf("%+v, owner %+v, after %v", op.Status, op.Status.Owner, s.calls())
					}
					if !slices.Equal(s.effects(), steps) || len(s.calls()) != len(steps)+1 || s.mostAtOnce() != 1 {
						t.Errorf("effects %v of the calls %v, %d at once", s.effects(), s.calls(), s.mostAtOnce())
					}
				})
			})
		}
	}
}

// A step that takes long keeps its owner, tells its progress, and does not
// write more than it must.
func TestALongStepKeepsItsLease(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		var s site
		slow := func(_ context.Context, _, step string, report func(done, total int64)) error {
			for i := range int64(6000) {
				if step == "two" {
					report(i, 6000)
				}
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		}
		startHosts(w, &s, []string{"one", "two"}, slow, nil)
		// Another host becomes the steward, and leaves the owner alone.
		time.Sleep(11 * time.Minute)
		w.Members.Set("h1", "h2", "h3", "h4", "h5")
		if op := get(w); op.Status.Steps[1].Done == 0 || op.Status.Steps[1].Total != 6000 {
			t.Errorf("no progress: %+v", op.Status.Steps[1])
		}
		time.Sleep(15 * time.Minute)
		if op := get(w); op.Status.Phase != meshv1alpha1.OperationSucceeded || s.mostAtOnce() != 1 || len(s.calls()) != 2 {
			t.Errorf("%+v after %v", op.Status, s.calls())
		}
		// Ten minutes of lease alone, ten of progress every five seconds.
		if n := w.Store.Commits(); n > 60+120+10 {
			t.Errorf("%d transactions in 20 minutes", n)
		}
	})
}

func TestCancel(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		var s site
		wait := func(_ context.Context, _, step string, _ func(done, total int64)) error {
			if step == "two" {
				time.Sleep(time.Minute)
			}
			return nil
		}
		startHosts(w, &s, steps, wait, nil)
		time.Sleep(30 * time.Second)
		stewardstest.Edit(w, opKey, func(op *Object) { op.Spec.Cancel = true })
		time.Sleep(time.Second)
		if op := get(w); op.Status.Phase != meshv1alpha1.OperationRunning {
			t.Errorf("stopped in the middle of a step: %+v", op.Status)
		}
		time.Sleep(time.Minute)
		op := get(w)
		var phases []meshv1alpha1.OperationStepPhase
		for _, step := range op.Status.Steps {
			phases = append(phases, step.Phase)
		}
		want := []meshv1alpha1.OperationStepPhase{meshv1alpha1.StepUndone, meshv1alpha1.StepDone, meshv1alpha1.StepPending, meshv1alpha1.StepPending}
		if op.Status.Phase != meshv1alpha1.OperationCancelled || !slices.Equal(phases, want) || !slices.Equal(s.effects(), []string{"two"}) {
			t.Errorf("%s, steps %v, effects %v", op.Status.Phase, phases, s.effects())
		}
	})
}

func TestFailures(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		var s site
		attempts := 0
		fail := func(_ context.Context, _, step string, _ func(done, total int64)) error {
			if step == "two" {
				if attempts++; attempts < 5 {
					return fmt.Errorf("attempt %d at %s failed", attempts, time.Now())
				}
			}
			if step == "three" {
				return Permanent(fault.New(fault.Conflict, "it can never work"))
			}
			return nil
		}
		startHosts(w, &s, steps, fail, nil)
		synctest.Wait()
		if op := get(w); op.Status.Phase != meshv1alpha1.OperationRunning || op.Status.Steps[1].Message == "" || op.Status.Message == "" {
			t.Errorf("the failure is not told: %+v", op.Status)
		}
		time.Sleep(5 * time.Minute)
		op := get(w)
		if op.Status.Phase != meshv1alpha1.OperationFailed || op.Status.Message != "it can never work" || op.Status.Fault == nil || op.Status.Fault.Code != string(fault.Conflict) || op.Status.Steps[1].Message != "" {
			t.Errorf("%+v", op.Status)
		}
		if n := w.Store.Commits(); n > 30 {
			t.Errorf("%d transactions for four failures", n)
		}
		var told []string
		for _, event := range stewardstest.List[*corev1.Event](w) {
			told = append(told, event.Type+" "+event.Reason+" "+event.InvolvedObject.Kind)
		}
		slices.Sort(told)
		if want := []string{"Normal Started Operation", "Warning Failed Operation"}; !slices.Equal(told, want) {
			t.Errorf("events %q, want %q", told, want)
		}
		if n := w.CommitsDuring(time.Hour); n != 0 {
			t.Errorf("%d transactions after the end", n)
		}
	})
}

// An operation that cannot succeed writes little, and is cancelled at once.
func TestOneThatNeverSucceeds(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		var s site
		var attempts atomic.Int64
		fail := func(_ context.Context, _, step string, _ func(done, total int64)) error {
			if step == "two" {
				return fmt.Errorf("attempt %d failed", attempts.Add(1))
			}
			return nil
		}
		startHosts(w, &s, steps, fail, nil)
		if n := w.CommitsDuring(time.Hour); n > 40 {
			t.Errorf("%d transactions in the first hour", n)
		}
		before := attempts.Load()
		if n := w.CommitsDuring(5 * time.Hour); n > 5*12 {
			t.Errorf("%d transactions in five hours, %d attempts", n, attempts.Load()-before)
		}
		if n := attempts.Load() - before; n < 20 {
			t.Errorf("%d attempts in five hours", n)
		}
		if op := get(w); op.Status.Fault == nil || op.Status.Fault.Code != string(fault.Internal) {
			t.Errorf("the fault is not told: %+v", op.Status.Fault)
		}
		time.Sleep(2 * time.Minute) // into a pause
		stewardstest.Edit(w, opKey, func(op *Object) { op.Spec.Cancel = true })
		time.Sleep(time.Second)
		if op := get(w); op.Status.Phase != meshv1alpha1.OperationCancelled || op.Status.Fault != nil || len(s.effects()) != 0 {
			t.Errorf("%+v, effects %v", op.Status, s.effects())
		}
	})
}

// An operation of a type that no host knows waits for one that does, and can be
// cancelled: at once if nobody has begun it, otherwise when its owner is silent.
func TestCancelOfAnUnknownType(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		var s site
		startHosts(w, &s, steps, nil, nil)
		begun := &meshv1alpha1.OperationOwner{Host: "h9", Epoch: 4, Renewed: metav1.NowMicro()}
		for name, owner := range map[string]*meshv1alpha1.OperationOwner{"fresh": nil, "begun": begun} {
			w.Create(&Object{
				ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: meshv1alpha1.OperationSpec{Type: "Later", Target: "x"},
				Status: meshv1alpha1.OperationStatus{Owner: owner},
			})
		}
		time.Sleep(10 * time.Second)
		for _, name := range []string{"fresh", "begun"} {
			stewardstest.Edit(w, objects.Key{Name: name}, func(op *Object) { op.Spec.Cancel = true })
		}
		phases := func() (fresh, begun meshv1alpha1.OperationStatus) {
			return stewardstest.Get[*Object](w, objects.Key{Name: "fresh"}).Status, stewardstest.Get[*Object](w, objects.Key{Name: "begun"}).Status
		}
		time.Sleep(time.Second)
		if a, b := phases(); a.Phase != meshv1alpha1.OperationCancelled || a.Message != "" || b.Phase.Final() {
			t.Errorf("%+v and %+v", a, b)
		}
		time.Sleep(lease)
		if _, b := phases(); b.Phase != meshv1alpha1.OperationCancelled || !strings.Contains(b.Message, "not undone") {
			t.Errorf("%+v", b)
		}
	})
}

// An operation that is deleted stops.
func TestDeletionStopsIt(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		var s site
		wait := func(ctx context.Context, _, _ string, _ func(done, total int64)) error {
			<-ctx.Done()
			return ctx.Err()
		}
		startHosts(w, &s, steps, wait, nil)
		time.Sleep(time.Minute)
		stewardstest.Delete[*Object](w, opKey, objects.DeleteOptions{})
		time.Sleep(time.Minute)
		if n := s.underWay(); n != 0 || len(s.effects()) != 0 {
			t.Errorf("%d steps run, effects %v", n, s.effects())
		}
	})
}
