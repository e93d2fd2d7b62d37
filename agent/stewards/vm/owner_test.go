package vm

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

func TestDeletionEndsTheInstanceFirst(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways)
		b.phase(kubevirtv1.Running)
		b.commit(func(tx *objects.Tx) { tx.Delete(b.vm(), objects.DeleteOptions{}) })
		b.expect(kubevirtv1.VirtualMachineStatusTerminating)
		if b.must().DeletionTimestamp == nil {
			b.Fatal("the instance is not being deleted")
		}
		b.phase(kubevirtv1.Succeeded)
		if b.vmi() != nil || b.vm() != nil {
			b.Errorf("left: %v %v", b.vmi(), b.vm())
		}
	})
}

// endDeleted deletes the instance, and lets its host let go of it.
func (b *bench) endDeleted() {
	b.Helper()
	b.commit(func(tx *objects.Tx) { tx.Delete(b.must(), objects.DeleteOptions{}) })
	b.phase(kubevirtv1.Succeeded)
}

func TestOrphaningKeepsTheInstance(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways)
		b.phase(kubevirtv1.Running)
		b.commit(func(tx *objects.Tx) {
			tx.Delete(b.vm(), objects.DeleteOptions{Propagation: metav1.DeletePropagationOrphan})
		})
		if b.must().DeletionTimestamp != nil {
			b.Error("the instance is being deleted")
		}
		if vm := b.vm(); objects.HasFinalizer(vm, kubevirtv1.VirtualMachineControllerFinalizer) {
			b.Error("the machine is held back")
		}
		// Nobody is left to remove its finalizer when it is deleted later.
		b.endDeleted()
		if b.vmi() != nil {
			b.Errorf("it cannot be deleted: %v", b.vmi().Finalizers)
		}
	})
}

// The garbage collector may take the owner off before the controller has seen
// the deletion.
func TestOrphaningAfterTheOwnerWasTakenOff(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways)
		b.phase(kubevirtv1.Running)
		old, vm := b.must(), b.vm()
		next := old.DeepCopy()
		next.OwnerReferences = nil
		b.commit(func(tx *objects.Tx) {
			tx.Update(old, next)
			tx.Delete(vm, objects.DeleteOptions{})
		})
		if b.vm() != nil {
			b.Fatal("the machine is still there")
		}
		b.endDeleted()
		if b.vmi() != nil {
			b.Errorf("it cannot be deleted: %v", b.vmi().Finalizers)
		}
	})
}

// A machine that lost its finalizers by force leaves its instance behind.
func TestAnInstanceOutlivesItsMachineButNotItsDeletion(t *testing.T) {
	for _, recreated := range []bool{false, true} {
		run(t, func(b *bench) {
			b.create(kubevirtv1.RunStrategyAlways)
			b.phase(kubevirtv1.Running)
			first := b.must().UID
			old := b.vm()
			next := old.DeepCopy()
			next.Finalizers = nil
			b.commit(func(tx *objects.Tx) { tx.DeleteRaw(b.raw(next)) })
			if b.vm() != nil {
				b.Fatal("the machine is still there")
			}
			if recreated {
				b.create(kubevirtv1.RunStrategyAlways)
			}
			b.commit(func(tx *objects.Tx) { tx.Delete(b.must(), objects.DeleteOptions{}) })
			time.Sleep(time.Minute)
			if vmi := b.must(); vmi.UID != first || !heldByHost(vmi) {
				b.Fatal("it was taken from its host")
			}
			b.phase(kubevirtv1.Succeeded)
			time.Sleep(time.Minute)
			switch vmi := b.vmi(); {
			case !recreated && vmi != nil:
				b.Errorf("it cannot be deleted: %v", vmi.Finalizers)
			case recreated && (vmi == nil || vmi.UID == first):
				b.Error("the new machine did not start")
			}
		})
	}
}

// raw is an object as the garbage collector sees it, for what the typed
// transactions do not do.
func (b *bench) raw(vm *kubevirtv1.VirtualMachine) objects.Raw {
	b.Helper()
	rec, _, err := b.store.Get(b.Context(), objects.KindFor[*kubevirtv1.VirtualMachine]().StoreKey(key), raftstore.ReadOptions{})
	if err != nil {
		b.Fatal(err)
	}
	raw, err := objects.DecodeRaw(rec)
	if err != nil {
		b.Fatal(err)
	}
	raw.SetFinalizers(vm.Finalizers)
	return raw
}

func TestAnotherOwnersInstanceIsLeftAlone(t *testing.T) {
	run(t, func(b *bench) {
		yes := true
		b.commit(func(tx *objects.Tx) {
			tx.Create(&kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{
				Namespace: key.Namespace, Name: key.Name,
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachineInstanceReplicaSet", Name: "rs", UID: "x", Controller: &yes}},
			}})
		})
		b.create(kubevirtv1.RunStrategyHalted)
		if b.must().DeletionTimestamp != nil {
			b.Error("it is being deleted")
		}
		vm := b.vm()
		if c := condition(vm, kubevirtv1.VirtualMachineFailure); c == nil || !strings.Contains(c.Message, "belongs to another object") || vm.Status.Created {
			b.Errorf("status %+v", vm.Status)
		}
	})
}

func TestAnInstanceWithoutOwnerIsAdopted(t *testing.T) {
	run(t, func(b *bench) {
		b.commit(func(tx *objects.Tx) {
			tx.Create(&kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}})
		})
		b.create(kubevirtv1.RunStrategyAlways)
		if !metav1.IsControlledBy(b.must(), b.vm()) {
			b.Errorf("owners %v", b.must().OwnerReferences)
		}
	})
}
