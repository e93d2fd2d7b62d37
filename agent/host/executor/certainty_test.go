package executor

import (
	"errors"
	"testing"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// Nothing is done to a guest on the word of a copy that the mesh has not confirmed: it is
// neither started nor stopped nor removed, and its disks and addresses stay.
func TestNothingIsDoneUnconfirmed(t *testing.T) {
	w := newWorld(t)
	running, unwanted := w.running("a"), w.running("b")
	stopped := w.running("c")
	w.act(w.hv.Destroy(t.Context(), refOf(stopped)))
	fresh := w.place(scheduled("d"))
	w.sync(fresh)
	h := w.witnessed()
	w.unconfirmed = raftstore.ErrUnconfirmed
	w.deleteWith(running, 0)
	w.forget(unwanted)
	w.sync(unwanted)
	for name, vmi := range map[string]*kubevirtv1.VirtualMachineInstance{"deleted": running, "gone": unwanted, "ended": stopped, "new": fresh} {
		var err error
		for range 5 {
			_, e := w.executor.Reconcile(t.Context(), objects.KeyOf(vmi))
			err = errors.Join(err, e)
			w.settle(vmi)
		}
		if !errors.Is(err, raftstore.ErrUnconfirmed) {
			t.Errorf("%s: it does not say why it waits: %v", name, err)
		}
	}
	if len(h.asked)+len(h.cut) != 0 {
		t.Errorf("guests were asked to shut down %d times, and cut %d times", len(h.asked), len(h.cut))
	}
	for _, ref := range []hypervisor.Ref{refOf(running), refOf(unwanted), refOf(stopped)} {
		if _, err := w.hv.Get(t.Context(), ref); err != nil {
			t.Errorf("%s was removed: %v", ref, err)
		}
	}
	if _, found := w.domain(fresh); found {
		t.Error("a guest was started")
	}
	w.unconfirmed = nil
	w.drive(fresh)
	if d, found := w.domain(fresh); !found || !d.State.Active() {
		t.Error("confirmed, it was not started")
	}
	w.drive(unwanted)
	if _, found := w.domain(unwanted); found {
		t.Error("confirmed, the guest of an instance that is gone was not removed")
	}
}
