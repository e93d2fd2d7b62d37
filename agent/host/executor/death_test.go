package executor

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// errKilled ends a plan as the death of the agent does.
var errKilled = errors.New("the agent was killed")

// witness is a hypervisor that remembers when its guests were asked to shut down,
// and when their power was cut.
type witness struct {
	hypervisor.Hypervisor
	world *world
	// deaf guests do not hear the request to shut down. forgetful daemons do not
	// know how a guest ended, as after a restart.
	deaf, forgetful bool
	asked, cut      []time.Time
}

func (h *witness) clock() time.Time { return time.Now().Add(h.world.passed) }

func (h *witness) Shutdown(ctx context.Context, ref hypervisor.Ref) error {
	h.asked = append(h.asked, h.clock())
	if h.deaf {
		return nil
	}
	return h.Hypervisor.Shutdown(ctx, ref)
}

func (h *witness) Destroy(ctx context.Context, ref hypervisor.Ref) error {
	h.cut = append(h.cut, h.clock())
	return h.Hypervisor.Destroy(ctx, ref)
}

func (h *witness) Get(ctx context.Context, ref hypervisor.Ref) (hypervisor.Domain, error) {
	domain, err := h.Hypervisor.Get(ctx, ref)
	if h.forgetful && domain.State == hypervisor.StateShutoff {
		domain.Reason = hypervisor.ReasonUnknown
	}
	return domain, err
}

// witnessed puts a witness between the executor and its hypervisor.
func (w *world) witnessed() *witness {
	w.t.Helper()
	h := &witness{Hypervisor: w.hv, world: w}
	w.config.Hypervisor = h
	w.restart()
	return h
}

// killBefore lets the agent die before the step with this number, counted from now
// on. It returns how many steps were taken or tried.
func (w *world) killBefore(number int) (taken *int) {
	n := 0
	w.executor.interrupt = func(Step) error {
		n++
		if n-1 == number {
			return errKilled
		}
		return nil
	}
	return &n
}

// drive reconciles until nothing changes any more, with time passing, and starts a
// new agent when one was killed.
func (w *world) drive(vmi *kubevirtv1.VirtualMachineInstance) {
	w.t.Helper()
	for range 20 {
		w.sync(vmi)
		_, err := w.executor.Reconcile(w.t.Context(), objects.KeyOf(vmi))
		w.settle(vmi)
		if errors.Is(err, errKilled) {
			w.restart()
			for _, key := range w.executor.Keys() {
				// Errors are tried again below.
				_, _ = w.executor.Reconcile(w.t.Context(), key)
			}
			w.settle(vmi)
		}
		w.pass(4 * time.Second)
	}
}

// outcome is what a user and the host's keeper see in the end.
type outcome struct {
	phase      kubevirtv1.VirtualMachineInstancePhase
	finalizers int
	state      hypervisor.State
	epoch      uint64
	claimed    bool
	disks      int
	leases     int
	traces     int
}

func (w *world) outcome(vmi *kubevirtv1.VirtualMachineInstance) outcome {
	w.t.Helper()
	var o outcome
	if got := w.get(vmi); got != nil {
		o.phase, o.finalizers = got.Status.Phase, len(got.Finalizers)
	}
	if domain, found := w.domain(vmi); found {
		o.state, o.epoch = domain.State, domain.Owner.Epoch
	}
	_, o.claimed = w.claim(vmi)
	o.disks, o.leases, o.traces = len(w.volumes.left), len(w.network.leases), len(w.executor.traces.keys())
	return o
}

// lives are what may happen to an instance, from before the steps that are
// interrupted.
var lives = map[string]struct {
	before func(*world, *witness) *kubevirtv1.VirtualMachineInstance
	want   outcome
}{
	"starts": {
		func(w *world, _ *witness) *kubevirtv1.VirtualMachineInstance { return w.place(scheduled("a")) },
		outcome{phase: kubevirtv1.Running, finalizers: 1, state: hypervisor.StateRunning, epoch: testEpoch, claimed: true, disks: 1, leases: 1, traces: 1},
	},
	"can never start": {
		func(w *world, _ *witness) *kubevirtv1.VirtualMachineInstance {
			vmi := scheduled("a")
			vmi.Spec.Domain.Devices.Disks[0].Disk.Bus = "floppy"
			return w.place(vmi)
		},
		outcome{phase: kubevirtv1.Failed},
	},
	"fails to start, then starts": {
		func(w *world, _ *witness) *kubevirtv1.VirtualMachineInstance {
			w.hv.Machine().Fail("Start", errors.New("no memory"))
			return w.place(scheduled("a"))
		},
		outcome{phase: kubevirtv1.Running, finalizers: 1, state: hypervisor.StateRunning, epoch: testEpoch, claimed: true, disks: 1, leases: 1, traces: 1},
	},
	"shuts itself down": {
		func(w *world, _ *witness) *kubevirtv1.VirtualMachineInstance {
			vmi := w.running("a")
			w.act(w.hv.Machine().PowerOff(refOf(vmi)))
			return vmi
		},
		outcome{phase: kubevirtv1.Succeeded},
	},
	"crashes": {
		func(w *world, _ *witness) *kubevirtv1.VirtualMachineInstance {
			vmi := w.running("a")
			w.act(w.hv.Machine().Crash(refOf(vmi)))
			return vmi
		},
		outcome{phase: kubevirtv1.Failed},
	},
	"loses its host's power": {
		func(w *world, _ *witness) *kubevirtv1.VirtualMachineInstance {
			vmi := w.running("a")
			w.hv.Machine().PowerLoss()
			return vmi
		},
		outcome{phase: kubevirtv1.Failed},
	},
	"is deleted": {
		func(w *world, _ *witness) *kubevirtv1.VirtualMachineInstance {
			vmi := w.running("a")
			w.deleteWith(vmi, 30)
			return vmi
		},
		outcome{},
	},
	"is deleted and does not listen": {
		func(w *world, h *witness) *kubevirtv1.VirtualMachineInstance {
			vmi := w.running("a")
			h.deaf = true
			w.deleteWith(vmi, 30)
			return vmi
		},
		outcome{},
	},
	"is deleted while paused": {
		func(w *world, _ *witness) *kubevirtv1.VirtualMachineInstance {
			vmi := w.running("a")
			w.act(w.hv.Suspend(w.t.Context(), refOf(vmi)))
			w.deleteWith(vmi, 30)
			return vmi
		},
		outcome{},
	},
	"is deleted before it starts": {
		func(w *world, _ *witness) *kubevirtv1.VirtualMachineInstance {
			vmi := w.place(scheduled("a"))
			w.deleteWith(vmi, 30)
			return vmi
		},
		outcome{},
	},
	"is gone": {
		func(w *world, _ *witness) *kubevirtv1.VirtualMachineInstance {
			vmi := w.running("a")
			w.unclaim(vmi)
			w.forget(vmi)
			return vmi
		},
		outcome{},
	},
	"is elsewhere": {
		func(w *world, _ *witness) *kubevirtv1.VirtualMachineInstance {
			vmi := w.running("a")
			w.move(vmi)
			return vmi
		},
		outcome{phase: kubevirtv1.Running, finalizers: 1, claimed: true},
	},
	"is fenced by a newer claim on this host": {
		func(w *world, _ *witness) *kubevirtv1.VirtualMachineInstance {
			vmi := w.running("a")
			w.claimFor(vmi, thisHost)
			w.change(vmi, func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Status.Phase = kubevirtv1.Scheduled })
			return vmi
		},
		outcome{phase: kubevirtv1.Running, finalizers: 1, state: hypervisor.StateRunning, epoch: testEpoch + 1, claimed: true, disks: 1, leases: 1, traces: 1},
	},
	"was defined and never started": {
		func(w *world, _ *witness) *kubevirtv1.VirtualMachineInstance {
			vmi := w.place(scheduled("a"))
			w.sync(vmi)
			w.store.Fail(raftstore.ErrNoLeader)
			if _, err := w.try(vmi); err == nil {
				w.t.Fatal("the start was reported")
			}
			w.store.Fail(nil)
			w.hv.Machine().PowerLoss()
			w.restart()
			return vmi
		},
		outcome{phase: kubevirtv1.Running, finalizers: 1, state: hypervisor.StateRunning, epoch: testEpoch, claimed: true, disks: 1, leases: 1, traces: 1},
	},
}

// Whenever the agent dies, the next one brings every instance to the same end.
func TestAgentsThatDieBetweenAnyTwoSteps(t *testing.T) {
	for name, life := range lives {
		t.Run(name, func(t *testing.T) {
			for number, taken := -1, 1; number < taken; number++ {
				w := newWorld(t)
				h := w.witnessed()
				vmi := life.before(w, h)
				h.asked, h.cut = nil, nil
				steps := w.killBefore(number)
				w.drive(vmi)
				if number < 0 {
					taken = *steps
				}
				if got := w.outcome(vmi); got != life.want {
					t.Errorf("killed before step %d of %d: %+v, want %+v", number, taken, got, life.want)
				}
				if len(h.asked) > 0 && len(h.cut) > 0 && h.cut[0].Sub(h.asked[0]) < 30*time.Second {
					t.Errorf("killed before step %d: asked at %v, power cut at %v", number, h.asked[0], h.cut[0])
				}
				if h.deaf && (len(h.asked) == 0 || len(h.cut) == 0) {
					t.Errorf("killed before step %d: asked %d times, power cut %d times", number, len(h.asked), len(h.cut))
				}
				if t.Failed() {
					return
				}
			}
		})
	}
}

// The agent was away, or the clock of the host that took the deletion differs: the
// guest is asked all the same, and has its time from then on.
func TestAGuestIsAskedHoweverLateItsHostHearsOfTheDeletion(t *testing.T) {
	w := newWorld(t)
	h := w.witnessed()
	vmi := w.running("a")
	h.deaf = true
	w.deleteWith(vmi, 30)
	w.pass(24 * time.Hour)
	w.restart()
	w.reconcile(vmi)
	if domain, _ := w.domain(vmi); len(h.asked) != 1 || len(h.cut) != 0 || domain.State != hypervisor.StateRunning {
		t.Fatalf("asked %d times, power cut %d times, the guest is %s", len(h.asked), len(h.cut), domain.State)
	}
	w.pass(29 * time.Second)
	w.restart() // its successor knows when the time began
	w.reconcile(vmi)
	if len(h.cut) != 0 {
		t.Error("the power was cut before the grace period was over")
	}
	w.pass(time.Second)
	w.reconcile(vmi)
	if got := w.get(vmi); got != nil || len(h.cut) != 1 {
		t.Errorf("after its time: %v, power cut %d times", got, len(h.cut))
	}
}

// A guest whose records cannot be written is not waited for without end.
func TestAGuestWithoutRecordsEndsToo(t *testing.T) {
	w := newWorld(t)
	h := w.witnessed()
	vmi := w.running("a")
	h.deaf = true
	w.deleteWith(vmi, 30)
	for range 10 {
		w.hv.Machine().Fail("SetRecord", errors.New("metadata is read-only"))
		w.reconcile(vmi)
		w.pass(5 * time.Second)
	}
	if got := w.get(vmi); got != nil || len(h.asked) < 2 {
		t.Errorf("instance %v, asked %d times", got, len(h.asked))
	}
}

// How a guest ended is in the domain's records before anything else is done: then
// neither the agent nor the hypervisor's daemon needs to remember it.
func TestAnEndThatWasRecordedHolds(t *testing.T) {
	for i, test := range []struct {
		end  func(*world, hypervisor.Ref) error
		want kubevirtv1.VirtualMachineInstancePhase
	}{
		{func(w *world, ref hypervisor.Ref) error { return w.hv.Machine().PowerOff(ref) }, kubevirtv1.Succeeded},
		{func(w *world, ref hypervisor.Ref) error { return w.hv.Machine().Crash(ref) }, kubevirtv1.Failed},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			w := newWorld(t)
			h := w.witnessed()
			vmi := w.running("a")
			w.act(test.end(w, refOf(vmi)))
			w.store.Fail(raftstore.ErrNoLeader)
			for range 2 {
				if _, err := w.try(vmi); err == nil {
					t.Fatal("no error, so nobody tries again")
				}
				h.forgetful = true
				w.restart()
			}
			w.store.Fail(nil)
			w.reconcile(vmi)
			w.expectEnded(vmi, test.want)
		})
	}
}
