package usage

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

// Amounts are amounts by the name of a resource. One that is missing is zero.
type Amounts = corev1.ResourceList

const (
	countPrefix = "count/"
	classInfix  = ".storageclass.storage.k8s.io/"
)

// Count returns the name of the number of objects of a kind, by its plural name and group:
// "count/secrets", "count/virtualmachines.kubevirt.io".
func Count(of schema.GroupResource) corev1.ResourceName {
	return corev1.ResourceName(countPrefix + of.String())
}

// CountedKind returns the kind whose objects a resource counts; ok is false if it counts none.
func CountedKind(name corev1.ResourceName) (of schema.GroupResource, ok bool) {
	rest, ok := strings.CutPrefix(string(canonical(name)), countPrefix)
	return schema.ParseGroupResource(rest), ok
}

// canonical returns the name under which the Record has a resource that has two.
func canonical(name corev1.ResourceName) corev1.ResourceName {
	switch name {
	case corev1.ResourceCPU:
		return corev1.ResourceRequestsCPU
	case corev1.ResourceMemory:
		return corev1.ResourceRequestsMemory
	case corev1.ResourceConfigMaps, corev1.ResourceSecrets, corev1.ResourcePersistentVolumeClaims, corev1.ResourceQuotas,
		corev1.ResourceServices, corev1.ResourcePods, corev1.ResourceReplicationControllers:
		return countPrefix + name
	}
	return name
}

// Measured reports whether a resource is one that instances and claims use, other than their
// number.
func Measured(name corev1.ResourceName) bool {
	switch canonical(name) {
	case corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsStorage:
		return true
	}
	class, of, ok := strings.Cut(string(name), classInfix)
	return ok && class != "" && (of == string(corev1.ResourceRequestsStorage) || of == string(corev1.ResourcePersistentVolumeClaims))
}

// HasContent reports whether what objects of a kind use depends on more than their number.
func HasContent(of schema.GroupResource) bool {
	return of == claims || of == instances
}

var (
	claims    = schema.GroupResource{Resource: "persistentvolumeclaims"}
	instances = schema.GroupResource{Group: kubevirtv1.GroupVersion.Group, Resource: "virtualmachineinstances"}
)

// Of returns what one object uses. obj is needed only of kinds with content, and may be nil if
// it cannot be read.
func Of(kind schema.GroupResource, obj runtime.Object) Amounts {
	used := Amounts{Count(kind): *resource.NewQuantity(1, resource.DecimalSI)}
	switch o := obj.(type) {
	case *corev1.PersistentVolumeClaim:
		addClaim(used, o)
	case *kubevirtv1.VirtualMachineInstance:
		addInstance(used, o)
	}
	return used
}

// addClaim adds the room that a claim asks for, also by its class.
func addClaim(used Amounts, claim *corev1.PersistentVolumeClaim) {
	size := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	used[corev1.ResourceRequestsStorage] = size
	if class := claim.Spec.StorageClassName; class != nil && *class != "" {
		used[corev1.ResourceName(*class+classInfix)+corev1.ResourceRequestsStorage] = size
		used[corev1.ResourceName(*class+classInfix)+corev1.ResourcePersistentVolumeClaims] = *resource.NewQuantity(1, resource.DecimalSI)
	}
}

// addInstance adds the processor time and the memory of an instance that has not ended, with
// what QEMU needs for itself: what KubeVirt requests for the instance's pod. How far a mesh
// overcommits its hosts does not matter to quotas.
func addInstance(used Amounts, instance *kubevirtv1.VirtualMachineInstance) {
	if instance.IsFinal() {
		return
	}
	r := machine.DefaultPolicy().Resources(&instance.Spec)
	memory := r.MemoryBytes
	for _, bytes := range r.Hugepages {
		memory += bytes
	}
	used[corev1.ResourceRequestsCPU] = *resource.NewMilliQuantity(r.CPUMilli, resource.DecimalSI)
	used[corev1.ResourceRequestsMemory] = *resource.NewQuantity(memory, resource.BinarySI)
}

// Add returns a plus b. Neither is changed. What becomes zero is left out.
func Add(a, b Amounts) Amounts { return combine(a, b, (*resource.Quantity).Add) }

// Subtract returns a minus b, which can be negative. Neither is changed. What becomes zero is
// left out.
func Subtract(a, b Amounts) Amounts { return combine(a, b, (*resource.Quantity).Sub) }

func combine(a, b Amounts, change func(*resource.Quantity, resource.Quantity)) Amounts {
	out := make(Amounts, len(a)+len(b))
	for name, amount := range a {
		out[name] = amount.DeepCopy()
	}
	for name, amount := range b {
		sum, ok := out[name]
		if !ok {
			sum = resource.Quantity{Format: amount.Format}
		}
		change(&sum, amount)
		out[name] = sum
	}
	for name, amount := range out {
		if amount.IsZero() {
			delete(out, name)
		}
	}
	return out
}

// text writes amounts of the named resources as Kubernetes does.
func text(amounts Amounts, names []corev1.ResourceName) string {
	parts := make([]string, 0, len(names))
	for _, name := range names {
		amount := amounts[name]
		parts = append(parts, string(name)+"="+amount.String())
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}
