package pods

import (
	"fmt"
	"hash/fnv"
	"maps"
	"strings"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

const (
	// prefix begins the name of every Pod, as that of KubeVirt's launchers.
	prefix = "virt-launcher-"
	// suffixLength is the length of what follows the instance's name and a dash.
	suffixLength = 5
	// nameLabel is KubeVirt's label with the name of the machine.
	nameLabel = "vm.kubevirt.io/name"
	// compute and consoleLog are the names of the containers.
	compute    = "compute"
	consoleLog = "guest-console-log"
)

// Of returns the Pod of an instance, which it does not change. The Pod has the instance's
// resource version.
func Of(vmi *kubevirtv1.VirtualMachineInstance) *corev1.Pod {
	base := prefix + cut(vmi.Name, maxBase) + "-"
	yes := true
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: base + suffix(vmi.UID), GenerateName: base, Namespace: vmi.Namespace,
			UID:             types.UID(uuid.NewSHA1(uuid.NameSpaceOID, []byte(vmi.UID)).String()),
			ResourceVersion: vmi.ResourceVersion, CreationTimestamp: vmi.CreationTimestamp,
			DeletionTimestamp: vmi.DeletionTimestamp.DeepCopy(), DeletionGracePeriodSeconds: copyOf(vmi.DeletionGracePeriodSeconds),
			Labels: labelsOf(vmi), Annotations: annotationsOf(vmi),
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: kubevirtv1.GroupVersion.String(), Kind: "VirtualMachineInstance", Name: vmi.Name, UID: vmi.UID,
				Controller: &yes, BlockOwnerDeletion: &yes,
			}},
		},
		Spec:   specOf(vmi),
		Status: statusOf(vmi),
	}
}

// maxBase is how much of an instance's name fits into that of its Pod.
const maxBase = validation.DNS1123SubdomainMaxLength - len(prefix) - 1 - suffixLength

// longFrom is the length of an instance's name from which on it may be cut in that of its Pod: by
// maxBase, and dots and dashes before that, of which a name has 63 at most in a row.
const longFrom = maxBase - validation.DNS1123LabelMaxLength

// cut returns the beginning of a name, of at most so many bytes, that ends as a name may.
func cut(name string, most int) string {
	return strings.TrimRight(name[:min(len(name), most)], ".-")
}

// suffix returns the end of the name, which is another one for another instance of the same name.
func suffix(uid types.UID) string {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(uid))
	return rand.SafeEncodeString(fmt.Sprintf("%0*d", suffixLength, sum.Sum32()%100000))
}

// instanceOf returns the name of the instance whose Pod has a name, if that is the name of a Pod
// and so short that the instance's name is not cut in it.
func instanceOf(pod string) (name string, ok bool) {
	rest, ok := strings.CutPrefix(pod, prefix)
	end := len(rest) - suffixLength - 1
	if !ok || end <= 0 || end >= longFrom || rest[end] != '-' {
		return "", false
	}
	return rest[:end], true
}

func copyOf[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

// labelsOf returns the instance's labels with those of a launcher.
func labelsOf(vmi *kubevirtv1.VirtualMachineInstance) map[string]string {
	labels := maps.Clone(vmi.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[kubevirtv1.AppLabel] = "virt-launcher"
	labels[kubevirtv1.CreatedByLabel] = string(vmi.UID)
	labels[nameLabel] = cut(vmi.Name, validation.LabelValueMaxLength)
	if vmi.Status.NodeName != "" {
		labels[kubevirtv1.NodeNameLabel] = vmi.Status.NodeName
	}
	return labels
}

func annotationsOf(vmi *kubevirtv1.VirtualMachineInstance) map[string]string {
	annotations := maps.Clone(vmi.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	annotations[kubevirtv1.DomainAnnotation] = vmi.Name
	annotations["kubectl.kubernetes.io/default-container"] = compute
	return annotations
}

func specOf(vmi *kubevirtv1.VirtualMachineInstance) corev1.PodSpec {
	spec := corev1.PodSpec{
		NodeName: vmi.Status.NodeName, RestartPolicy: corev1.RestartPolicyNever, Hostname: vmi.Spec.Hostname, Subdomain: vmi.Spec.Subdomain,
		NodeSelector: maps.Clone(vmi.Spec.NodeSelector), PriorityClassName: vmi.Spec.PriorityClassName, SchedulerName: vmi.Spec.SchedulerName,
		TerminationGracePeriodSeconds: copyOf(vmi.Spec.TerminationGracePeriodSeconds), Affinity: vmi.Spec.Affinity.DeepCopy(),
		Containers: []corev1.Container{{Name: compute, Image: "virt-launcher", Resources: resourcesOf(vmi)}},
		Volumes:    volumesOf(vmi),
	}
	for _, toleration := range vmi.Spec.Tolerations {
		spec.Tolerations = append(spec.Tolerations, *toleration.DeepCopy())
	}
	if logsConsole(vmi) {
		spec.Containers = append(spec.Containers, corev1.Container{Name: consoleLog, Image: "virt-launcher"})
	}
	return spec
}

// logsConsole reports whether what the guest prints on its serial console is kept.
func logsConsole(vmi *kubevirtv1.VirtualMachineInstance) bool {
	d := vmi.Spec.Domain.Devices
	return (d.AutoattachSerialConsole == nil || *d.AutoattachSerialConsole) && (d.LogSerialConsole == nil || *d.LogSerialConsole)
}

// resourcesOf returns what the instance asks for, and its memory with the hypervisor's overhead.
func resourcesOf(vmi *kubevirtv1.VirtualMachineInstance) corev1.ResourceRequirements {
	asked := vmi.Spec.Domain.Resources.DeepCopy()
	needs := corev1.ResourceRequirements{Requests: asked.Requests, Limits: asked.Limits}
	overhead := *resource.NewQuantity(machine.Overhead(&vmi.Spec), resource.BinarySI)
	for _, list := range []corev1.ResourceList{needs.Requests, needs.Limits} {
		if memory, there := list[corev1.ResourceMemory]; there {
			memory.Add(overhead)
			list[corev1.ResourceMemory] = memory
		}
	}
	return needs
}

// volumesOf returns the volumes that are objects of their own, which tell who uses them.
func volumesOf(vmi *kubevirtv1.VirtualMachineInstance) []corev1.Volume {
	var volumes []corev1.Volume
	for _, v := range vmi.Spec.Volumes {
		out := corev1.Volume{Name: v.Name}
		switch {
		case v.PersistentVolumeClaim != nil:
			claim := v.PersistentVolumeClaim.PersistentVolumeClaimVolumeSource
			out.PersistentVolumeClaim = &claim
		case v.DataVolume != nil:
			out.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: v.DataVolume.Name}
		case v.Secret != nil:
			out.Secret = &corev1.SecretVolumeSource{SecretName: v.Secret.SecretName}
		case v.ConfigMap != nil:
			out.ConfigMap = &corev1.ConfigMapVolumeSource{LocalObjectReference: v.ConfigMap.LocalObjectReference}
		default:
			continue
		}
		volumes = append(volumes, out)
	}
	return volumes
}
