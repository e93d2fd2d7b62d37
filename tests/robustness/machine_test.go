package robustness

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
)

// newMachine returns a machine as the API stores it.
func newMachine(name string) *kubevirtv1.VirtualMachine {
	strategy, memory := kubevirtv1.RunStrategyAlways, resource.MustParse("64Mi")
	vm := &kubevirtv1.VirtualMachine{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: kubevirtv1.VirtualMachineSpec{RunStrategy: &strategy, Template: &kubevirtv1.VirtualMachineInstanceTemplateSpec{
			Spec: kubevirtv1.VirtualMachineInstanceSpec{
				Domain: kubevirtv1.DomainSpec{Memory: &kubevirtv1.Memory{Guest: &memory}, Devices: kubevirtv1.Devices{
					Disks: []kubevirtv1.Disk{{Name: "root", DiskDevice: kubevirtv1.DiskDevice{Disk: &kubevirtv1.DiskTarget{Bus: "virtio"}}}},
					Interfaces: []kubevirtv1.Interface{{
						Name: "default", InterfaceBindingMethod: kubevirtv1.InterfaceBindingMethod{Masquerade: &kubevirtv1.InterfaceMasquerade{}},
					}},
				}},
				Networks: []kubevirtv1.Network{*kubevirtv1.DefaultPodNetwork()},
				Volumes: []kubevirtv1.Volume{{Name: "root", VolumeSource: kubevirtv1.VolumeSource{
					ContainerDisk: &kubevirtv1.ContainerDiskSource{Image: "example/disk"}}}},
			},
		}},
	}
	objects.KindFor[*kubevirtv1.VirtualMachine]().Default(machine.DefaultDefaults(), vm)
	return vm
}
