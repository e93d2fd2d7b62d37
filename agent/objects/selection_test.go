package objects_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
)

// A selection has the objects for which its condition holds now, whatever they were
// before and whether the watch breaks or not.
func TestSelectionFollowsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objectstest.New()
		cache, stop := startCache(t, s)
		defer stop()
		a, b := newVMI("a"), newVMI("b")
		commit(t, s, func(tx *objects.Tx) { tx.Create(a); tx.Create(b) })
		setPhase(t, s, "b", kubevirtv1.Running)
		selection := objects.Select(objects.For[*kubevirtv1.VirtualMachineInstance](cache), func(v *kubevirtv1.VirtualMachineInstance) bool {
			return v.Status.Phase == kubevirtv1.Running
		})
		expect := func(when string, want ...string) {
			t.Helper()
			synctest.Wait()
			var names []string
			for _, v := range selection.List() {
				names = append(names, v.Name)
			}
			if !slices.Equal(names, want) {
				t.Errorf("%s: selected %v, want %v", when, names, want)
			}
		}
		expect("at first", "b")
		setPhase(t, s, "a", kubevirtv1.Running)
		expect("when another runs", "a", "b")
		s.BreakWatches(raftstore.ErrCompacted)
		setPhase(t, s, "b", kubevirtv1.Failed)
		time.Sleep(time.Minute)
		expect("when one has ended", "a")
		commit(t, s, func(tx *objects.Tx) {
			tx.Remove(objects.KindFor[*kubevirtv1.VirtualMachineInstance]().StoreKey(objects.KeyOf(a)))
		})
		expect("when it is deleted")
		setPhase(t, s, "b", kubevirtv1.Running)
		expect("when one runs again", "b")
		selection.Close()
		expect("when it is closed")
	})
}
