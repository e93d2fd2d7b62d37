package metrics

import (
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

const (
	// none is the label value that KubeVirt uses for what an instance does not specify.
	none = "<none>"
	// maxLabel bounds what users can put in a label by an annotation.
	maxLabel = 128

	annotationPrefix = "vm.kubevirt.io/"
)

func infoDesc() *prometheus.Desc {
	return desc("info", "An instance on this host; always 1.",
		"phase", "os", "workload", "flavor", "instance_type", "preference",
		"guest_os_kernel_release", "guest_os_machine", "guest_os_arch", "guest_os_name", "guest_os_version_id",
		"evictable", "outdated", "vmi_pod")
}

// instance sends the description of one instance. Labels that need a guest agent are
// present but empty, as KubeVirt sends them for a guest without an agent.
func (f *families) instance(out sink, vmi *kubevirtv1.VirtualMachineInstance) {
	machine := ""
	if vmi.Status.Machine != nil {
		machine = vmi.Status.Machine.Type
	}
	out.put(f.info, gauge, 1, vmi.Namespace, vmi.Name,
		strings.ToLower(string(vmi.Status.Phase)),
		annotation(vmi, annotationPrefix+"os"), annotation(vmi, annotationPrefix+"workload"), annotation(vmi, annotationPrefix+"flavor"),
		annotation(vmi, kubevirtv1.InstancetypeAnnotation, kubevirtv1.ClusterInstancetypeAnnotation),
		annotation(vmi, kubevirtv1.PreferenceAnnotation, kubevirtv1.ClusterPreferenceAnnotation),
		"", machine, "", "", "",
		strconv.FormatBool(evictable(vmi)), "false", none)
}

// annotation returns the first of the named annotations that is set.
func annotation(vmi *kubevirtv1.VirtualMachineInstance, names ...string) string {
	for _, name := range names {
		if value, ok := vmi.Annotations[name]; ok {
			return strings.ToValidUTF8(value[:min(len(value), maxLabel)], "")
		}
	}
	return none
}

// evictable reports whether the instance does not block the drain of its host. Only an
// instance that asks to be migrated and cannot be migrated blocks the drain.
func evictable(vmi *kubevirtv1.VirtualMachineInstance) bool {
	if s := vmi.Spec.EvictionStrategy; s == nil || *s != kubevirtv1.EvictionStrategyLiveMigrate {
		return true
	}
	for _, c := range vmi.Status.Conditions {
		if c.Type == kubevirtv1.VirtualMachineInstanceIsMigratable {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
