package executor

import (
	"testing"

	"virtmesh/agent/host/hypervisor"
)

// A guest whose file systems are frozen is thawed before it is asked to shut down, and is asked
// as it is when it cannot be thawed.
func TestAFrozenGuestIsThawedToShutDown(t *testing.T) {
	for name, fails := range map[string]bool{"thaws": false, "does not thaw": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			guest := &deaf{Hypervisor: w.hv}
			if fails {
				w.config.Hypervisor = guest
				w.restart()
			}
			vmi := w.running("a")
			w.act(w.hv.Machine().SetAgent(refOf(vmi), &fullAnswer))
			w.hear(vmi)
			w.act(w.executor.Guests().Freeze(t.Context(), "ns", "a", 0))
			if fails {
				w.hv.Machine().Fail("Thaw", hypervisor.ErrNoAgent)
			}
			w.deleteWith(vmi, 3600)
			w.reconcile(vmi)
			w.executor.tasks.wg.Wait()
			w.reconcile(vmi)
			if domain, _ := w.domain(vmi); !fails && (domain.State != hypervisor.StateShutoff || domain.Reason != hypervisor.ReasonShutdown) {
				t.Errorf("the guest is %s, %s", domain.State, domain.Reason)
			}
			if fails && guest.asked == 0 {
				t.Error("a guest that stays frozen was not asked to shut down")
			}
		})
	}
}
