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

// expectEntries checks which entries follow when a user commits a transaction,
// within the hour after it.
func (h *host) expectEntries(build func(tx *objects.Tx), want ...string) {
	h.Helper()
	before := len(h.journal.since(0))
	var tx objects.Tx
	build(&tx)
	_, err := tx.Commit(h.Context(), h.store("user"))
	h.Check(err)
	time.Sleep(time.Hour)
	synctest.Wait()
	if got := h.journal.since(before); !slices.Equal(got, want) {
		h.Errorf("the entries are\n%q, want\n%q", got, want)
	}
}

// A machine costs four log entries until its guest runs, one more for its own
// status, and nothing from then on, however far the caches are behind. Its end
// costs four, and a fifth that is shared by all machines that end in one minute.
func TestLifeOfMachineWritesFewEntries(t *testing.T) {
	for _, lag := range []time.Duration{0, 2 * time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond} {
		t.Run(fmt.Sprint("lag ", lag), func(t *testing.T) {
			runHost(t, lag, func(h *host) {
				vm := newMachine("web")
				key := objects.KeyOf(vm)
				h.expectEntries(func(tx *objects.Tx) { tx.Create(vm) },
					"user: virtualmachines",
					"vm: virtualmachineinstances events virtualmachines",
					"placement: claims virtualmachineinstances events",
					"executor: virtualmachineinstances events", // the guest runs
					"vm: virtualmachines",
				)
				if got := stewardstest.Get[*kubevirtv1.VirtualMachine](h.World, key); got.Status.PrintableStatus != kubevirtv1.VirtualMachineStatusRunning || !got.Status.Ready {
					t.Errorf("the machine is %s, ready %v", got.Status.PrintableStatus, got.Status.Ready)
				}
				if got := stewardstest.Get[*kubevirtv1.VirtualMachineInstance](h.World, key); got == nil || got.Status.Phase != kubevirtv1.Running {
					t.Errorf("the instance is %+v", got)
				}
				h.expectEntries(func(tx *objects.Tx) {
					tx.Delete(stewardstest.Get[*kubevirtv1.VirtualMachine](h.World, key), objects.DeleteOptions{})
				},
					"user: virtualmachines",
					"vm: virtualmachineinstances events virtualmachines",
					"executor: virtualmachineinstances claims events",
					"vm: virtualmachineinstances virtualmachines",
					"collector: claims", // the epochs of the names that are free again
				)
				if left := h.Names("/registry/kubevirt.io/"); len(left) > 0 {
					t.Errorf("left are %v", left)
				}
			})
		})
	}
}
