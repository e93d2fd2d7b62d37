package meshv1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of the kinds in this package.
const GroupName = "mesh.virtmesh.io"

// Name is the name of the one MeshConfig of a mesh.
const Name = "mesh"

// SchemeGroupVersion is the group and version at which the API serves these types.
var SchemeGroupVersion = schema.GroupVersion{Group: GroupName, Version: "v1alpha1"}

// MeshConfig holds the settings of the whole mesh. A mesh has at most one MeshConfig,
// and its name is "mesh". Without one, every setting has its default value.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type MeshConfig struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec holds the settings. When the object is stored, settings that are not given
	// get their default values.
	// +optional
	Spec MeshConfigSpec `json:"spec,omitempty"`
}

// MeshConfigList is a list of MeshConfig.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type MeshConfigList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// Items holds the objects of the list: at most one.
	Items []MeshConfig `json:"items"`
}

// MeshConfigSpec holds the settings of the mesh.
type MeshConfigSpec struct {
	// Capacity says how much of its host's capacity a virtual machine is charged, and
	// which host placement prefers among those with enough room. A change applies to
	// machines that are placed after it; running machines keep their charge.
	// +optional
	Capacity Capacity `json:"capacity,omitempty"`
	// VirtualMachine holds defaults for virtual machines. A machine's own specification
	// takes precedence.
	// +optional
	VirtualMachine VirtualMachine `json:"virtualMachine,omitempty"`
	// FeatureLevel says who raises the mesh's feature level after an upgrade: "Manual",
	// the default, leaves it to an administrator ("virtmesh level raise"); with
	// "Automatic" the mesh raises it by itself once all its hosts have known the higher
	// level for ten minutes. A raise cannot be taken back, and no host can go back to an
	// earlier version after it that does not know the level.
	// +optional
	FeatureLevel FeatureLevelPolicy `json:"featureLevel,omitempty"`
	// Encryption says what is encrypted in the mesh's state besides Secrets. From feature
	// level 5 on.
	// +optional
	Encryption *Encryption `json:"encryption,omitempty"`
	// Voters limits which hosts may vote in the group that replicates the mesh's state. A
	// voter holds the keys of the mesh. Without it, every host may vote. From feature level 5
	// on.
	// +optional
	Voters *Voters `json:"voters,omitempty"`
}

// Encryption says what is encrypted in the mesh's state, on the disks of its hosts and in its
// backups.
type Encryption struct {
	// Kinds are the kinds whose content is encrypted as that of Secrets always is, with the
	// same key: "ConfigMap" is the only one. Objects of other kinds have to be read by every
	// host, and only voters hold the key. What is stored already is encrypted within minutes,
	// and decrypted again when the kind is taken out; older entries of the log and backups stay
	// as they are.
	// +optional
	// +listType=set
	Kinds []string `json:"kinds,omitempty"`
}

// Voters limits which hosts may vote. Of those that may, the mesh chooses 1, 3 or 5, spread
// over the zones. A host that votes and may not any more keeps its vote until another one can
// take it, and as long as the mesh would have no majority without it.
type Voters struct {
	// Hosts names the only hosts that may vote. Empty stands for every host. Name at least
	// three: with fewer the mesh cannot change anything while one of them is off.
	// +optional
	// +listType=set
	Hosts []string `json:"hosts,omitempty"`
	// Exclude names hosts that may not vote. A host that has voted and may not any more could
	// have kept the keys of the mesh; from feature level 6 on the mesh replaces them an hour
	// later ("virtmesh status" says which and when).
	// +optional
	// +listType=set
	Exclude []string `json:"exclude,omitempty"`
	// KeepKeys leaves the keys as they are that hosts have had that may not vote any more. It
	// needs feature level 6.
	// +optional
	KeepKeys bool `json:"keepKeys,omitempty"`
}

// FeatureLevelPolicy says who raises the mesh's feature level.
type FeatureLevelPolicy string

// Policies for the mesh's feature level.
const (
	// FeatureLevelManual leaves the raise to an administrator.
	FeatureLevelManual FeatureLevelPolicy = "Manual"
	// FeatureLevelAutomatic lets the mesh raise its level once all its hosts can.
	FeatureLevelAutomatic FeatureLevelPolicy = "Automatic"
)

// Capacity says how far hosts may be overcommitted.
//
// The charges of a host's machines never add up to more than its allocatable CPU,
// memory, huge pages and devices. These settings say how large the charge of one
// machine is. They are the same for every host.
type Capacity struct {
	// CPUAllocationRatio is how many virtual CPUs may share one CPU of the host: from
	// 1 to 100, default 10. A machine is charged the number of its virtual CPUs divided
	// by this ratio. A machine whose spec.domain.resources.requests.cpu is higher is
	// charged its request instead; a lower request changes nothing. A machine with
	// dedicated CPUs (dedicatedCpuPlacement) is charged one CPU of the host for each.
	// Limits do not change the charge.
	// +optional
	CPUAllocationRatio *int64 `json:"cpuAllocationRatio,omitempty"`
	// MemoryOvercommitPercent is how much guest memory may be given out, in percent of
	// the host's memory: from 10 to 1000, default 100, which means no overcommitment. A
	// machine is charged its guest's memory times 100 divided by this percentage, and
	// the overhead of its QEMU process in full. A machine whose
	// spec.domain.resources.requests.memory is higher than the guest's part of the
	// charge is charged its request instead of that part; a lower request changes
	// nothing, because a guest may use all the memory it sees. Limits do not change the
	// charge. Huge pages are charged in full. Above 100, hosts need enough swap for the
	// time when all guests use all their memory.
	// +optional
	MemoryOvercommitPercent *int64 `json:"memoryOvercommitPercent,omitempty"`
	// StorageOvercommitPercent is how much may be promised on a host's own file systems,
	// in percent of what guests can have there: from 10 to 1000, default 100, which means
	// no overcommitment. Volumes in pools that are not shared and empty disks count in
	// full, whether they are written yet or not; what a machine writes over an image
	// counts if it requests ephemeral-storage. Above 100, guests are paused when they have
	// filled the file system. From feature level 4 on.
	// +optional
	StorageOvercommitPercent *int64 `json:"storageOvercommitPercent,omitempty"`
	// ImageOverlay is how much a machine is charged on its host's disk for what it writes
	// over each of its images (containerDisk), unless it requests ephemeral-storage: up to
	// 1Ti, default 0, which charges nothing. What a guest writes over an image ends with it,
	// and can grow to the size of the image's disk. From feature level 5 on.
	// +optional
	ImageOverlay *resource.Quantity `json:"imageOverlay,omitempty"`
	// Strategy says which host placement prefers among those with enough room:
	// "balance", the default, prefers the host with the most free capacity, so that the
	// load spreads; "pack" prefers the host with the least, so that hosts stay empty for
	// large machines.
	// +optional
	Strategy Strategy `json:"strategy,omitempty"`
}

// Strategy says which host placement prefers among those with enough room.
type Strategy string

// Strategies of placement.
const (
	// Balance prefers the host with the most free capacity.
	Balance Strategy = "balance"
	// Pack prefers the host with the least free capacity.
	Pack Strategy = "pack"
)

// VirtualMachine holds defaults for virtual machines. A machine's own specification
// takes precedence.
type VirtualMachine struct {
	// MaxHotplugRatio limits how far a machine can grow while it runs: to its CPU
	// sockets and its memory times this ratio. From 1 to 16, default 4; 1 leaves no room
	// to grow. A machine's own maxSockets and maxGuest take precedence. A change applies
	// to machines that start after it.
	// +optional
	MaxHotplugRatio *int64 `json:"maxHotplugRatio,omitempty"`
}

var (
	_ runtime.Object = (*MeshConfig)(nil)
	_ runtime.Object = (*MeshConfigList)(nil)
)
