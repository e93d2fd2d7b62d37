package objects_test

import (
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
)

// runningVMI is an instance with about as much in it as one that runs has.
func runningVMI() *kubevirtv1.VirtualMachineInstance {
	vmi := newVMI("a")
	vmi.UID, vmi.Labels = "0c8a1e3c-6b1d-4a63-9a36-6d9a6e8f2f10", map[string]string{"app": "shop", "tier": "web"}
	vmi.OwnerReferences = []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachine", Name: "a", UID: "x"}}
	vmi.Spec.Domain.CPU = &kubevirtv1.CPU{Sockets: 1, Cores: 4, Threads: 1}
	vmi.Spec.Domain.Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("4Gi")}
	for _, name := range []string{"root", "data", "seed", "scratch"} {
		disk := kubevirtv1.Disk{Name: name, DiskDevice: kubevirtv1.DiskDevice{Disk: &kubevirtv1.DiskTarget{Bus: kubevirtv1.DiskBusVirtio}}}
		vmi.Spec.Domain.Devices.Disks = append(vmi.Spec.Domain.Devices.Disks, disk)
		source := kubevirtv1.VolumeSource{DataVolume: &kubevirtv1.DataVolumeSource{Name: "volume-of-" + name}}
		vmi.Spec.Volumes = append(vmi.Spec.Volumes, kubevirtv1.Volume{Name: name, VolumeSource: source})
		vmi.Status.VolumeStatus = append(vmi.Status.VolumeStatus, kubevirtv1.VolumeStatus{Name: name, Target: "vd" + name[:1], Size: 1 << 30})
	}
	for _, name := range []string{"Ready", "AgentConnected", "LiveMigratable", "StorageLiveMigratable"} {
		vmi.Status.Conditions = append(vmi.Status.Conditions, kubevirtv1.VirtualMachineInstanceCondition{
			Type: kubevirtv1.VirtualMachineInstanceConditionType(name), Status: "True", LastTransitionTime: metav1.Now(), Message: "all is as it was wished for"})
	}
	vmi.Status.Interfaces = []kubevirtv1.VirtualMachineInstanceNetworkInterface{{Name: "default", MAC: "02:00:00:00:00:01", IP: "10.0.0.7", IPs: []string{"10.0.0.7", "fd00::7"}}}
	return vmi
}

// BenchmarkStatusWrite changes the status of an instance: as this version stores it, and as
// a newer version does that has set fields of its own.
func BenchmarkStatusWrite(b *testing.B) {
	for _, newer := range []bool{false, true} {
		name := map[bool]string{false: "known", true: "newer"}[newer]
		b.Run(name, func(b *testing.B) {
			s := objectstest.New()
			vmi := runningVMI()
			var tx objects.Tx
			tx.Create(vmi)
			if _, err := tx.Commit(b.Context(), s); err != nil {
				b.Fatal(err)
			}
			if newer {
				key, _ := storeNewer(b, s, vmi)
				vmi.ResourceVersion = strconv.FormatUint(record(b, s, key).ModRevision, 10)
			}
			for i := range b.N {
				next := vmi.DeepCopy()
				next.Status.Reason = strconv.Itoa(i)
				var tx objects.Tx
				tx.UpdateStatus(vmi, next)
				if _, err := tx.Commit(b.Context(), s); err != nil {
					b.Fatal(err)
				}
				vmi = next
			}
		})
	}
}
