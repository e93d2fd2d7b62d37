package publish

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
)

// Description describes a host, as its Node shows it.
type Description struct {
	// Capacity is what the host has, Allocatable the most that all claims on it may
	// add up to.
	Capacity, Allocatable machine.Resources
	// Disks are the host's file systems with disks of guests; nil if they are not known yet.
	Disks []claims.Disk
	// Addresses, Info and PodCIDR are shown as they are.
	Addresses []corev1.NodeAddress
	Info      corev1.NodeSystemInfo
	PodCIDR   string
	// Zone is the failure domain; empty for none.
	Zone string
	// Labels are set in addition to those that follow from the other fields.
	Labels map[string]string
	// KVM says that hardware virtualisation works, and KVMReason why not.
	KVM       bool
	KVMReason string
	// CPUVendor, HostModel, CPUModels and CPUFeatures describe the processor
	// in libvirt's names.
	CPUVendor, HostModel   string
	CPUModels, CPUFeatures []string
	// Emulator is what guests can be given besides a CPU model.
	Emulator machine.Emulator
	// Unknown says that it is not known yet what the host can run. What the Node and the
	// published capacity say of that stays, from before the agent started.
	Unknown bool
	// Witness says that the host votes and runs no guests.
	Witness bool
	// NotReady says why the host runs no guests; empty if it does.
	NotReady string
	// Conditions are set in addition to Ready and KVMUsable.
	Conditions []corev1.NodeCondition
}

const (
	// ConditionKVM tells whether hardware virtualisation works on the host.
	ConditionKVM corev1.NodeConditionType = "KVMUsable"
	// ResourceKVM is KubeVirt's name of the resource that gives access to /dev/kvm. It
	// is not limited here.
	resourceKVM = "devices.kubevirt.io/kvm"

	roleWorker = "node-role.kubernetes.io/worker"

	reasonReady    = "AgentReady"
	reasonNotReady = "AgentNotReady"
)

// ownedPrefixes are the prefixes of the labels that follow from the processor. Labels
// with such a prefix that a description does not contain are removed.
var ownedPrefixes = []string{
	kubevirtv1.CPUModelLabel, kubevirtv1.CPUFeatureLabel, kubevirtv1.CPUModelVendorLabel,
	kubevirtv1.HostModelCPULabel, kubevirtv1.SupportedMachineTypeLabel,
}

// obsoleteModels get no label, because every host supports them.
var obsoleteModels = []string{
	"486", "Conroe", "athlon", "core2duo", "coreduo", "kvm32", "kvm64", "n270",
	"pentium", "pentium2", "pentium3", "pentiumpro", "phenom", "qemu32", "qemu64",
}

// apply brings a Node in line with the description of its host.
func (d Description) apply(host string, n *corev1.Node, now time.Time) {
	d.applyLabels(host, n)
	if d.PodCIDR != "" {
		n.Spec.PodCIDR, n.Spec.PodCIDRs = d.PodCIDR, []string{d.PodCIDR}
	}
	n.Spec.ProviderID = "virtmesh://" + host
	n.Spec.Taints = withoutTaint(n.Spec.Taints, corev1.TaintNodeUnreachable)
	n.Spec.Taints = withoutTaint(n.Spec.Taints, corev1.TaintNodeUnschedulable)
	n.Spec.Taints = withoutTaint(n.Spec.Taints, corev1.TaintNodeDiskPressure)
	n.Spec.Taints = withoutTaint(n.Spec.Taints, objects.NodeRoleWitness)
	if d.Witness {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: objects.NodeRoleWitness, Effect: corev1.TaintEffectNoSchedule})
	}
	for _, c := range d.Conditions {
		if c.Type == corev1.NodeDiskPressure && c.Status == corev1.ConditionTrue {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeDiskPressure, Effect: corev1.TaintEffectNoSchedule})
		}
	}
	if n.Spec.Unschedulable {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	}
	n.Status.Addresses, n.Status.NodeInfo = d.Addresses, d.Info
	d.applyConditions(n, now)
}

// guestConditions are the types of the conditions that a host without guests does not have.
var guestConditions = []corev1.NodeConditionType{ConditionKVM, objects.NodePoolsUsable, objects.NodeHypervisorReady, objects.NodeGuestsConfined, corev1.NodeDiskPressure}

func (d Description) applyConditions(n *corev1.Node, now time.Time) {
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: reasonReady, Message: "The agent is running"}
	if d.NotReady != "" {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, reasonNotReady, d.NotReady
	}
	conditions := []corev1.NodeCondition{ready}
	if !d.Unknown {
		n.Status.Capacity, n.Status.Allocatable = d.resourceList(d.Capacity), d.resourceList(d.Allocatable)
	}
	switch {
	case d.Witness: // it may have been another host before
		n.Status.Conditions = slices.DeleteFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return slices.Contains(guestConditions, c.Type) })
	case !d.Unknown:
		conditions = append(conditions, d.kvmCondition())
	}
	for _, c := range append(conditions, d.Conditions...) {
		objects.SetNodeCondition(n, c, now)
	}
}

func (d Description) kvmCondition() corev1.NodeCondition {
	kvm := corev1.NodeCondition{Type: ConditionKVM, Status: corev1.ConditionTrue, Reason: "KVMWorks", Message: "Guests run with hardware virtualisation"}
	if !d.KVM {
		kvm.Status, kvm.Reason, kvm.Message = corev1.ConditionFalse, "Emulated", "Guests are emulated, which is slow: "+d.KVMReason
	}
	return kvm
}

func (d Description) applyLabels(host string, n *corev1.Node) {
	labels := maps.Clone(n.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	if !d.Unknown {
		d.labelProcessor(labels)
	}
	if d.Zone != "" {
		labels[corev1.LabelTopologyZone] = d.Zone
	}
	labels[corev1.LabelHostname] = host
	labels[corev1.LabelOSStable], labels[corev1.LabelArchStable] = d.Info.OperatingSystem, d.Info.Architecture
	role, other := roleWorker, objects.NodeRoleWitness
	if d.Witness {
		role, other = other, role
	}
	labels[role] = ""
	delete(labels, other)
	labels[kubevirtv1.NodeSchedulable] = fmt.Sprint(d.NotReady == "" && !d.Witness)
	maps.Copy(labels, d.Labels)
	n.Labels = labels
}

// labelProcessor sets the labels for what guests can be given.
func (d Description) labelProcessor(labels map[string]string) {
	maps.DeleteFunc(labels, func(key, _ string) bool {
		return slices.ContainsFunc(ownedPrefixes, func(p string) bool { return strings.HasPrefix(key, p) })
	})
	for _, m := range d.CPUModels {
		if !slices.Contains(obsoleteModels, m) {
			labels[kubevirtv1.CPUModelLabel+m] = "true"
		}
	}
	for _, f := range d.CPUFeatures {
		labels[kubevirtv1.CPUFeatureLabel+f] = "true"
	}
	d.Emulator.SetLabels(labels)
	if d.CPUVendor != "" {
		labels[kubevirtv1.CPUModelVendorLabel+d.CPUVendor] = "true"
	}
	if d.HostModel != "" {
		labels[kubevirtv1.HostModelCPULabel+d.HostModel] = "true"
	}
}

// maxGuests is shown as the number of pods: tools expect one.
const maxGuests = 1000

func (d Description) resourceList(r machine.Resources) corev1.ResourceList {
	guests := resource.NewQuantity(maxGuests, resource.DecimalSI)
	if d.Witness {
		guests.Set(0)
	}
	list := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewMilliQuantity(r.CPUMilli, resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(r.MemoryBytes, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(r.EphemeralBytes, resource.BinarySI),
		corev1.ResourcePods:             *guests,
	}
	for size, bytes := range r.Hugepages {
		list[corev1.ResourceName(corev1.ResourceHugePagesPrefix+size)] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	for name, n := range r.Devices {
		list[corev1.ResourceName(name)] = *resource.NewQuantity(n, resource.DecimalSI)
	}
	if d.KVM {
		list[resourceKVM] = *guests
	}
	return list
}

func withoutTaint(taints []corev1.Taint, key string) []corev1.Taint {
	var kept []corev1.Taint
	for _, t := range taints {
		if t.Key != key {
			kept = append(kept, t)
		}
	}
	return kept
}
