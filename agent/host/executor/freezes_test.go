package executor

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/host/hypervisor"
)

func TestFrozenFileSystemsAreThawedInTime(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &fullAnswer))
	w.hear(vmi)
	g := w.executor.Guests()
	w.act(g.Freeze(t.Context(), "ns", "a", time.Minute))
	w.reconcile(vmi)
	if !w.hv.Machine().IsFrozen(refOf(vmi)) || w.get(vmi).Status.FSFreezeStatus != "frozen" {
		t.Errorf("frozen %v, and the status shows %q", w.hv.Machine().IsFrozen(refOf(vmi)), w.get(vmi).Status.FSFreezeStatus)
	}
	if info, err := g.GuestOSInfo(t.Context(), "ns", "a"); err != nil || info.FSFreezeStatus != "frozen" {
		t.Errorf("guest info %+v, %v", info, err)
	}
	// The agent of the host that starts anew knows of it.
	w.restart()
	w.passed += time.Minute
	w.hv.Machine().Fail("Thaw", hypervisor.ErrNoAgent)
	w.reconcile(vmi)
	w.executor.tasks.wg.Wait()
	if !w.hv.Machine().IsFrozen(refOf(vmi)) {
		t.Error("thawed by an agent that fails")
	}
	w.passed += thawPause
	w.reconcile(vmi)
	w.executor.tasks.wg.Wait()
	w.reconcile(vmi)
	if w.hv.Machine().IsFrozen(refOf(vmi)) || w.get(vmi).Status.FSFreezeStatus != "" {
		t.Errorf("frozen %v, and the status shows %q", w.hv.Machine().IsFrozen(refOf(vmi)), w.get(vmi).Status.FSFreezeStatus)
	}
}

func TestUnfreeze(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	g := w.executor.Guests()
	if err := g.Freeze(t.Context(), "ns", "a", 0); !errors.Is(err, fault.NoGuestAgent) {
		t.Errorf("a guest without an agent: %v", err)
	}
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &fullAnswer))
	w.hear(vmi)
	w.hv.Machine().Fail("Freeze", hypervisor.ErrRefused)
	if err := g.Freeze(t.Context(), "ns", "a", 0); !errors.Is(err, fault.Conflict) {
		t.Errorf("a guest that does not freeze: %v", err)
	}
	w.reconcile(vmi)
	w.executor.tasks.wg.Wait()
	w.reconcile(vmi)
	if shown := w.get(vmi).Status.FSFreezeStatus; shown != "" {
		t.Errorf("a guest that did not freeze is shown as %q", shown)
	}
	for _, limit := range []time.Duration{0, math.MaxInt64, math.MaxInt64 - time.Minute} {
		w.act(g.Freeze(t.Context(), "ns", "a", limit))
		w.passed += 24 * time.Hour
		w.reconcile(vmi)
		w.executor.tasks.wg.Wait()
		if !w.hv.Machine().IsFrozen(refOf(vmi)) {
			t.Errorf("thawed after a day, and the limit is %s", limit)
		}
	}
	w.act(g.Unfreeze(t.Context(), "ns", "a"))
	w.reconcile(vmi)
	if w.hv.Machine().IsFrozen(refOf(vmi)) || w.get(vmi).Status.FSFreezeStatus != "" {
		t.Error("the guest stays frozen")
	}
	w.act(w.hv.Machine().Pause(refOf(vmi), hypervisor.ReasonUser))
	for what, err := range map[string]error{
		"freeze": g.Freeze(t.Context(), "ns", "a", 0), "unfreeze": g.Unfreeze(t.Context(), "ns", "a"), "reboot": g.Reboot(t.Context(), "ns", "a"),
	} {
		if !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "paused") {
			t.Errorf("%s of a guest that is paused: %v", what, err)
		}
	}
}

// A guest that was given up because it was slow, and freezes after that, is thawed.
func TestAGuestThatFreezesTooLateIsThawed(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &fullAnswer))
	w.hear(vmi)
	w.hv.Machine().Fail("Freeze", hypervisor.ErrNoAgent)
	if err := w.executor.Guests().Freeze(t.Context(), "ns", "a", time.Hour); !errors.Is(err, fault.NoGuestAgent) {
		t.Fatalf("a guest that is too slow: %v", err)
	}
	w.act(w.hv.Freeze(t.Context(), refOf(vmi)))
	w.reconcile(vmi)
	w.executor.tasks.wg.Wait()
	w.reconcile(vmi)
	if w.hv.Machine().IsFrozen(refOf(vmi)) || w.get(vmi).Status.FSFreezeStatus != "" {
		t.Errorf("frozen %v, and the status shows %q", w.hv.Machine().IsFrozen(refOf(vmi)), w.get(vmi).Status.FSFreezeStatus)
	}
}

// While a guest's file systems are being frozen or thawed, another request about them is refused.
func TestOneRequestFreezesAtATime(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &fullAnswer))
	w.hear(vmi)
	g, uid := w.executor.Guests(), refOf(vmi).UID
	if !w.executor.thaws.beginRequest(uid) {
		t.Fatal("the first request is refused")
	}
	for what, err := range map[string]error{"freeze": g.Freeze(t.Context(), "ns", "a", 0), "unfreeze": g.Unfreeze(t.Context(), "ns", "a")} {
		if !errors.Is(err, fault.Conflict) {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.executor.thaws.endRequest(uid)
	w.act(g.Freeze(t.Context(), "ns", "a", 0))
	w.act(g.Unfreeze(t.Context(), "ns", "a"))
}

// A guest that boots anew is not frozen any more.
func TestARebootThaws(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &fullAnswer))
	w.hear(vmi)
	g := w.executor.Guests()
	w.act(g.Freeze(t.Context(), "ns", "a", 0))
	w.act(g.Reset(t.Context(), "ns", "a"))
	w.executor.handleEvent(hypervisor.Event{Kind: hypervisor.EventReboot, Ref: refOf(vmi)})
	w.reconcile(vmi)
	w.reconcile(vmi)
	if shown := w.get(vmi).Status.FSFreezeStatus; shown != "" {
		t.Errorf("the status shows %q", shown)
	}
}
