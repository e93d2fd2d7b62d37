package executor

import (
	"context"
	"errors"
	"testing"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
)

// slowly makes pulls wait. arrive lets them succeed; given is closed when one
// was given up.
func (w *world) slowly() (arrive func(), given <-chan struct{}) {
	arrived, givenUp := make(chan struct{}), make(chan struct{})
	w.volumes.pull = func(ctx context.Context) error {
		select {
		case <-arrived:
			return nil
		case <-ctx.Done():
			close(givenUp)
			return ctx.Err()
		}
	}
	return func() { close(arrived) }, givenUp
}

// pulling places an instance and begins to pull its image.
func (w *world) pulling(name string) *kubevirtv1.VirtualMachineInstance {
	w.t.Helper()
	vmi := w.place(scheduled(name))
	if result, err := w.once(vmi); err != nil || !result.Pending {
		w.t.Fatalf("begun: %+v, %v", result, err)
	}
	return vmi
}

// expectNoStart checks that nothing was started and nothing stays prepared.
func (w *world) expectNoStart(vmi *kubevirtv1.VirtualMachineInstance) {
	w.t.Helper()
	if domain, found := w.domain(vmi); found {
		w.t.Errorf("the guest was started: %+v", domain)
	}
	if w.executor.preparations.of(string(vmi.UID)) != nil {
		w.t.Error("its volumes are still being prepared")
	}
	if w.volumes.prepared != w.volumes.released {
		w.t.Errorf("volumes prepared %d times, released %d", w.volumes.prepared, w.volumes.released)
	}
}

func TestAPullHoldsNoWorker(t *testing.T) {
	w := newWorld(t)
	arrive, _ := w.slowly()
	vmi := w.pulling("a")
	// The engine hears of its end through the executor's own events.
	keys := make(chan stewards.Key, 1)
	defer w.executor.Subscribe(func(key stewards.Key) { keys <- key })()
	for range 3 {
		if result, err := w.once(vmi); err != nil || !result.Pending {
			t.Fatalf("while it is pulled: %+v, %v", result, err)
		}
	}
	arrive()
	if key := <-keys; key != objects.KeyOf(vmi) {
		t.Errorf("the end of the pull names %s", key)
	}
	w.reconcile(vmi)
	if domain, _ := w.domain(vmi); domain.State != hypervisor.StateRunning || w.volumes.prepared != 1 || w.volumes.released != 1 {
		t.Errorf("domain %+v, volumes prepared %d times, released %d", domain, w.volumes.prepared, w.volumes.released)
	}
}

func TestDeletionEndsAPull(t *testing.T) {
	w := newWorld(t)
	_, given := w.slowly()
	vmi := w.pulling("a")
	w.deleteWith(vmi, 3600)
	w.reconcile(vmi)
	<-given
	if got := w.get(vmi); got != nil {
		t.Errorf("the instance is still there, with finalizers %v", got.Finalizers)
	}
	w.expectNoStart(vmi)
	w.expectNothingLeft(vmi)
}

func TestAPullEndsWhenItsInstanceIsGoneOrElsewhere(t *testing.T) {
	for name, lose := range map[string]func(*world, *kubevirtv1.VirtualMachineInstance){
		"gone":      (*world).forget,
		"elsewhere": (*world).move,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			_, given := w.slowly()
			vmi := w.pulling("a")
			lose(w, vmi)
			w.reconcile(vmi)
			<-given
			w.expectNoStart(vmi)
			if len(w.volumes.removed) != 1 || len(w.network.released) != 1 {
				t.Errorf("removed %v, released %v", w.volumes.removed, w.network.released)
			}
		})
	}
}

// The replica of a host that was cut off still shows the instance as its own
// when the pull from a registry next to it ends.
func TestAStartIsConfirmedByTheMesh(t *testing.T) {
	for name, lose := range map[string]func(*world, *kubevirtv1.VirtualMachineInstance){
		"gone":      (*world).forget,
		"elsewhere": (*world).move,
		"deleted":   func(w *world, vmi *kubevirtv1.VirtualMachineInstance) { w.deleteWith(vmi, 3600) },
		"ended": func(w *world, vmi *kubevirtv1.VirtualMachineInstance) {
			w.change(vmi, func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Status.Phase = kubevirtv1.Failed })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			arrive, _ := w.slowly()
			vmi := w.pulling("a")
			lagging := newWorld(t)
			before, _ := w.vmis.Get(objects.KeyOf(vmi))
			lagging.commit(func(tx *objects.Tx) { tx.Create(before.DeepCopy()) })
			lagging.sync(before)
			lose(w, vmi)
			w.executor.Instances = lagging.vmis
			arrive()
			w.settle(vmi)
			if result, err := w.executor.Reconcile(t.Context(), objects.KeyOf(vmi)); err != nil || result.Pending {
				t.Errorf("started late: %+v, %v", result, err)
			}
			w.expectNoStart(vmi)
		})
	}
}

func TestNothingStartsWhenTheMeshCannotBeAsked(t *testing.T) {
	w := newWorld(t)
	arrive, _ := w.slowly()
	vmi := w.pulling("a")
	w.store.cut.Store(true)
	arrive()
	w.settle(vmi)
	if _, err := w.once(vmi); !errors.Is(err, errUnconfirmed) {
		t.Errorf("error %v, want one to retry on", err)
	}
	if domain, found := w.domain(vmi); found {
		t.Errorf("the guest was started: %+v", domain)
	}
	if got := w.get(vmi); got.Status.Phase != kubevirtv1.Scheduled {
		t.Errorf("phase %s", got.Status.Phase)
	}
	w.store.cut.Store(false)
	w.reconcile(vmi)
	if domain, _ := w.domain(vmi); domain.State != hypervisor.StateRunning || w.volumes.prepared != 1 {
		t.Errorf("the guest is %s, its volumes were prepared %d times", domain.State, w.volumes.prepared)
	}
}

func TestNothingStartsWhenTheClaimIsGone(t *testing.T) {
	w := newWorld(t)
	arrive, _ := w.slowly()
	vmi := w.pulling("a")
	w.unclaim(vmi)
	arrive()
	w.settle(vmi)
	if _, err := w.once(vmi); err == nil {
		t.Error("no error, so nobody tries again")
	}
	w.expectNoStart(vmi)
	if got := w.get(vmi); got.Status.Phase != kubevirtv1.Scheduled {
		t.Errorf("phase %s", got.Status.Phase)
	}
}

// The instance went away and came back while its image was pulled: what was
// prepared is for another claim.
func TestAPreparationForAnotherClaimIsDropped(t *testing.T) {
	w := newWorld(t)
	arrive, _ := w.slowly()
	vmi := w.pulling("a")
	w.claimFor(vmi, thisHost)
	arrive()
	w.settle(vmi)
	w.reconcile(vmi)
	domain, _ := w.domain(vmi)
	if domain.State != hypervisor.StateRunning || domain.Owner.Epoch != testEpoch+1 || w.volumes.prepared != 2 || w.volumes.released != 2 {
		t.Errorf("domain %+v, volumes prepared %d times, released %d", domain, w.volumes.prepared, w.volumes.released)
	}
}

func TestAPanicInAPreparationFailsItsInstanceOnly(t *testing.T) {
	w := newWorld(t)
	w.volumes.pull = func(context.Context) error { panic("a header that nobody foresaw") }
	vmi := w.place(scheduled("a"))
	if _, err := w.try(vmi); err == nil {
		t.Error("no error, so nobody tries again")
	}
	w.volumes.pull = nil
	w.pass(maxStartPause)
	w.reconcile(vmi)
}

func TestCloseEndsPulls(t *testing.T) {
	w := newWorld(t)
	_, given := w.slowly()
	vmi := w.pulling("a")
	w.executor.Close()
	<-given
	w.expectNoStart(vmi)
	if _, err := w.once(vmi); !errors.Is(err, errStopped) {
		t.Errorf("after the end: %v", err)
	}
}
