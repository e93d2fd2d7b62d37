package meshv1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of the kinds in this package.
const GroupName = "mesh.virtmesh.io"

// Name is the name of the one MeshConfig of a mesh.
const Name = "mesh"

// SchemeGroupVersion is the group and version these types are served at.
var SchemeGroupVersion = schema.GroupVersion{Group: GroupName, Version: "v1alpha1"}

// MeshConfig holds the settings of the whole mesh. There is one, and its name is
// "mesh". Without it, every setting has its default.
type MeshConfig struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec holds the settings. What it leaves out is filled in with the defaults
	// when the object is stored.
	// +optional
	Spec MeshConfigSpec `json:"spec,omitempty"`
	// Status says what the mesh has made of the settings.
	// +optional
	Status MeshConfigStatus `json:"status,omitempty"`
}

// MeshConfigList is a list of MeshConfig.
type MeshConfigList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// Items are the objects of the list: at most one.
	Items []MeshConfig `json:"items"`
}

// MeshConfigSpec is the settings of the mesh.
type MeshConfigSpec struct {
	// Capacity says what a virtual machine is charged to its host, and which of the
	// hosts with enough room is preferred. A change counts for machines that are
	// placed after it: those that run keep what they were charged.
	// +optional
	Capacity Capacity `json:"capacity,omitempty"`
	// VirtualMachine holds the settings of virtual machines that do not say
	// otherwise themselves.
	// +optional
	VirtualMachine VirtualMachine `json:"virtualMachine,omitempty"`
}

// Capacity says how far hosts may be committed.
//
// A host never carries more than it has: the sum of what its machines are charged
// stays within its allocatable CPU, memory, huge pages and devices. These settings
// say how large the charge of one machine is. They are the same for every host.
type Capacity struct {
	// CPUAllocationRatio is how many virtual CPUs share one CPU of the host: from 1
	// to 100, 10 when not set. A machine is charged its virtual CPUs divided by it.
	// spec.domain.resources.requests.cpu of a machine raises the charge where it is
	// higher, and never lowers it. A machine with dedicated CPUs
	// (dedicatedCpuPlacement) is charged them whole. Limits do not change the charge.
	// +optional
	CPUAllocationRatio *int64 `json:"cpuAllocationRatio,omitempty"`
	// MemoryOvercommitPercent is how much guest memory is promised for every 100 of
	// the host's memory: from 10 to 1000, 100 when not set, which promises no more
	// than there is. A machine is charged the memory its guest sees, times 100,
	// divided by this, and the overhead of its QEMU process in full.
	// spec.domain.resources.requests.memory of a machine raises the charge where it
	// is higher than the guest's part, and never lowers it: a guest may use all the
	// memory it sees, whatever was requested for it. Limits do not change the charge.
	// Huge pages are charged in full whatever this says. With more than 100, hosts
	// need enough swap for guests that use all their memory at once.
	// +optional
	MemoryOvercommitPercent *int64 `json:"memoryOvercommitPercent,omitempty"`
	// Strategy says which of the hosts with enough room is preferred: "balance", the
	// default, takes the one with the most left, so that load spreads; "pack" the one
	// with the least left, so that hosts stay empty for large machines.
	// +optional
	Strategy Strategy `json:"strategy,omitempty"`
}

// Strategy says which of the hosts with enough room is preferred.
type Strategy string

// Strategies of placement.
const (
	// Balance prefers the host with the most left.
	Balance Strategy = "balance"
	// Pack prefers the host with the least left.
	Pack Strategy = "pack"
)

// VirtualMachine holds the settings of virtual machines that do not say otherwise
// themselves.
type VirtualMachine struct {
	// MaxHotplugRatio is how many times its CPU sockets and memory a machine may grow
	// to while it runs, where the machine sets no maxSockets or maxGuest of its own:
	// from 1 to 16, 4 when not set; 1 makes no room to grow. It counts for machines
	// that start after a change.
	// +optional
	MaxHotplugRatio *int64 `json:"maxHotplugRatio,omitempty"`
}

// MeshConfigStatus says what the mesh has made of the settings.
type MeshConfigStatus struct {
	// ObservedGeneration is the metadata.generation of the settings that the
	// conditions speak of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions describe the state of the settings.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

var (
	_ runtime.Object = (*MeshConfig)(nil)
	_ runtime.Object = (*MeshConfigList)(nil)
)
