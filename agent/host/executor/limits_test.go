package executor

import (
	"errors"
	"testing"

	machine "virtmesh/agent/vmi"
)

// A guest whose emulator has no limit of memory, because the agent died while it started it, gets
// one. A host that cannot limit it is asked once, and the guest runs on.
func TestAGuestGetsItsLimitOfMemory(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	started, _ := w.domain(vmi)
	if started.MemoryLimit <= 0 {
		t.Fatal("it was started without a limit")
	}
	w.act(w.hv.Machine().DropMemoryLimit(refOf(vmi)))
	w.reconcile(vmi)
	if got, _ := w.domain(vmi); got.MemoryLimit != machine.MemoryLimit(&vmi.Spec, true) || got.MemoryLimit < started.MemoryLimit {
		t.Errorf("limited to %d bytes, started with %d", got.MemoryLimit, started.MemoryLimit)
	}
	w.act(w.hv.Machine().DropMemoryLimit(refOf(vmi)))
	w.restart()
	w.hv.Machine().Fail("LimitMemory", errors.New("no cgroup controller"))
	w.reconcile(vmi)
	w.hv.Machine().Fail("LimitMemory", nil)
	w.reconcile(vmi)
	if got, found := w.domain(vmi); !found || !got.State.Active() || got.MemoryLimit != 0 {
		t.Errorf("it was tried again, or the guest is gone: %+v", got)
	}
}
