package domain

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	v1 "kubevirt.io/api/core/v1"
	"pgregory.net/rapid"
)

const (
	machineUID  types.UID = "0f7d8a1e-0000-4000-8000-0000000000a1"
	instanceUID types.UID = "0f7d8a1e-0000-4000-8000-0000000000b1"
)

// instanceOf returns an instance of the VirtualMachine with the UID owner, or of none.
func instanceOf(namespace, name string, uid, owner types.UID) *v1.VirtualMachineInstance {
	vmi := &v1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: uid}}
	if owner != "" {
		vm := &metav1.ObjectMeta{Name: name, UID: owner}
		vmi.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(vm, v1.VirtualMachineGroupVersionKind)}
	}
	return vmi
}

// libvirt keeps the state of TPMs under these UUIDs: were they others in a later
// version, guests would lose it.
func TestUUIDStaysTheSameInAllVersions(t *testing.T) {
	yes, keptTPM := true, instanceOf("ns", "web", instanceUID, machineUID)
	keptTPM.Spec.Domain.Devices.TPM = &v1.TPMDevice{Persistent: &yes}
	for _, c := range []struct {
		vmi  *v1.VirtualMachineInstance
		want string
	}{
		{instanceOf("ns", "web", instanceUID, machineUID), "198f547c-b197-58aa-8db9-93d30584505c"},
		{instanceOf("ns", "web", instanceUID, ""), "a1a8c516-77fd-5517-a3a3-d88348b23a14"},
		{keptTPM, "709a3eb3-fd92-5213-9d84-b46eba49e330"},
	} {
		if got := UUID(c.vmi); got != c.want {
			t.Errorf("the UUID of an instance with owners %v is %s, want %s", c.vmi.OwnerReferences, got, c.want)
		}
	}
}

// Instances that follow each other as one VirtualMachine have one UUID as long as its TPM
// keeps its state or does not, and no others have it, whatever firmware UUIDs and owners
// users write into their manifests.
func TestUUIDIsOneMachines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Few values, so that parts of the identities often are the same.
		namespaces, names := rapid.SampledFrom([]string{"a", "b", "a-b"}), rapid.SampledFrom([]string{"b", "c", "b-c", "a.b"})
		uids := rapid.SampledFrom([]types.UID{machineUID, instanceUID, "0f7d8a1e-0000-4000-8000-0000000000c1", "0f7d8a1e-0000-4000-8000-0000000000c2"})
		machines := map[string]string{}
		for i := range rapid.IntRange(2, 8).Draw(t, "instances") {
			draw := func(what string) string { return fmt.Sprintf("%s %d", what, i) }
			vmi := instanceOf(namespaces.Draw(t, draw("namespace")), names.Draw(t, draw("name")), uids.Draw(t, draw("uid")), "")
			life := vmi.UID
			switch rapid.SampledFrom([]string{"none", "machine", "another's", "set"}).Draw(t, draw("owner")) {
			case "machine":
				life = uids.Draw(t, draw("machine"))
				vmi.OwnerReferences = instanceOf(vmi.Namespace, vmi.Name, vmi.UID, life).OwnerReferences
			case "another's":
				vmi.OwnerReferences = instanceOf(vmi.Namespace, vmi.Name+"x", vmi.UID, uids.Draw(t, draw("other"))).OwnerReferences
			case "set":
				owner := &metav1.ObjectMeta{Name: vmi.Name, UID: uids.Draw(t, draw("set"))}
				vmi.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, v1.VirtualMachineInstanceReplicaSetGroupVersionKind)}
			}
			vmi.Spec.Domain.Firmware = &v1.Firmware{UUID: machineUID}
			keeps := rapid.Bool().Draw(t, draw("the TPM keeps its state"))
			vmi.Spec.Domain.Devices.TPM = &v1.TPMDevice{Persistent: &keeps}
			machine, got := fmt.Sprintf("%s/%s of %s, TPM %v", vmi.Namespace, vmi.Name, life, keeps), UUID(vmi)
			if parsed, err := uuid.Parse(got); err != nil || parsed.String() != got {
				t.Fatalf("%q is no UUID: %v", got, err)
			}
			for other, has := range machines {
				if same := machine == other; same != (got == has) {
					t.Fatalf("%s has the UUID %s, %s has %s", machine, got, other, has)
				}
			}
			machines[machine] = got
		}
	})
}

// The API has had several versions, and a reference to an owner keeps the one in which
// it was written.
func TestUUIDHoldsInEveryVersionOfTheAPI(t *testing.T) {
	old, now := instanceOf("ns", "web", instanceUID, machineUID), instanceOf("ns", "web", "another", machineUID)
	old.OwnerReferences[0].APIVersion = "kubevirt.io/v1alpha3"
	if UUID(old) != UUID(now) {
		t.Errorf("%s and %s", UUID(old), UUID(now))
	}
	now.OwnerReferences[0].APIVersion = "example.com/v1"
	if UUID(old) == UUID(now) {
		t.Error("an owner of another group counts as a VirtualMachine")
	}
}
