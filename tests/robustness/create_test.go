package robustness

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/stewardstest"
)

// A machine costs four log entries until its guest runs, one more for its own
// status, and nothing from then on, however far the caches are behind.
func TestCreateWritesFiveEntries(t *testing.T) {
	for _, lag := range []time.Duration{0, 2 * time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond} {
		t.Run(fmt.Sprint("lag ", lag), func(t *testing.T) {
			runHost(t, lag, func(h *host) {
				before := len(h.journal.since(0))
				vm := newMachine("web")
				var tx objects.Tx
				tx.Create(vm)
				_, err := tx.Commit(t.Context(), h.store("user"))
				h.Check(err)
				time.Sleep(time.Hour)
				synctest.Wait()
				want := []string{
					"user: virtualmachines",
					"vm: virtualmachineinstances events virtualmachines",
					"placement: claims virtualmachineinstances events",
					"executor: virtualmachineinstances events", // the guest runs
					"vm: virtualmachines",
				}
				if got := h.journal.since(before); !slices.Equal(got, want) {
					t.Errorf("the entries of a machine and the hour after it are\n%q, want\n%q", got, want)
				}
				key := objects.KeyOf(vm)
				if got := stewardstest.Get[*kubevirtv1.VirtualMachine](h.World, key); got.Status.PrintableStatus != kubevirtv1.VirtualMachineStatusRunning || !got.Status.Ready {
					t.Errorf("the machine is %s, ready %v", got.Status.PrintableStatus, got.Status.Ready)
				}
				if got := stewardstest.Get[*kubevirtv1.VirtualMachineInstance](h.World, key); got == nil || got.Status.Phase != kubevirtv1.Running {
					t.Errorf("the instance is %+v", got)
				}
			})
		})
	}
}
