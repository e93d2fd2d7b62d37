package place

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

// Request is what one instance needs, prepared once for many hosts.
type Request struct {
	UID       string
	Namespace string
	Name      string
	Labels    map[string]string
	Resources machine.Resources
	// Affinity is the affinity of the instance itself.
	Affinity *corev1.Affinity
	// OnlyHosts, if not nil, are the hosts that can reach the instance's
	// volumes; OnlyReason says why the others cannot.
	OnlyHosts  map[string]struct{}
	OnlyReason string
	// Exclude maps hosts that must not be chosen to the reason.
	Exclude map[string]string
	// Needs is what the host must be able to emulate.
	Needs machine.Needs
	// Images are the images the instance needs, named as in Host.Images.
	Images []string
	// Volumes are those that are to be made on the host, and Pools their bytes by pool.
	Volumes []Volume
	Pools   map[string]int64

	policy       Policy
	required     nodeaffinity.RequiredNodeAffinity
	hasRequired  bool
	matchFields  bool // the node affinity looks at the name of a host
	preferred    *nodeaffinity.PreferredSchedulingTerms
	tolerations  []corev1.Toleration
	architecture string
	cpuModel     string
	cpuFeatures  []string // labels that must be "true"
	forbidden    []string // labels that must not be "true"
	nodeLabels   []string // other labels that must be "true"
	affinity     []term
	anti         []term
	weighted     []weightedTerm
	spread       []spreadRule
}

// NewRequest prepares the request of an instance. An error names the field of
// the instance that is not valid.
func NewRequest(vmi *kubevirtv1.VirtualMachineInstance, policy Policy) (*Request, error) {
	spec := &vmi.Spec
	r := &Request{
		UID: string(vmi.UID), Namespace: vmi.Namespace, Name: vmi.Name, Labels: vmi.Labels,
		Affinity: spec.Affinity, Resources: policy.Resources(spec), policy: policy, tolerations: spec.Tolerations,
		Needs:  machine.NeedsOf(vmi),
		Images: images(spec),
	}
	if err := r.setNodeAffinity(spec); err != nil {
		return nil, err
	}
	r.setCPU(spec.Domain.CPU)
	r.setArchitecture(spec)
	if err := r.setInstanceAffinity(spec.Affinity); err != nil {
		return nil, err
	}
	var err error
	r.spread, err = newSpreadRules(spec.TopologySpreadConstraints, vmi.Labels)
	return r, err
}

// setNodeAffinity reads nodeSelector and affinity.nodeAffinity.
func (r *Request) setNodeAffinity(spec *kubevirtv1.VirtualMachineInstanceSpec) error {
	r.required = nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity)
	r.hasRequired = len(spec.NodeSelector) > 0
	if spec.Affinity == nil || spec.Affinity.NodeAffinity == nil {
		return nil
	}
	na := spec.Affinity.NodeAffinity
	if sel := na.RequiredDuringSchedulingIgnoredDuringExecution; sel != nil {
		r.hasRequired = true
		r.matchFields = slices.ContainsFunc(sel.NodeSelectorTerms, hasFields)
		if _, err := nodeaffinity.NewNodeSelector(sel); err != nil {
			return fmt.Errorf("spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution: %w", err)
		}
	}
	if terms := na.PreferredDuringSchedulingIgnoredDuringExecution; len(terms) > 0 {
		p, err := nodeaffinity.NewPreferredSchedulingTerms(terms)
		if err != nil {
			return fmt.Errorf("spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution: %w", err)
		}
		r.preferred = p
		r.matchFields = r.matchFields || slices.ContainsFunc(terms, func(t corev1.PreferredSchedulingTerm) bool {
			return hasFields(t.Preference)
		})
	}
	return nil
}

func hasFields(t corev1.NodeSelectorTerm) bool { return len(t.MatchFields) > 0 }

// nodeOf returns the host for the node affinity library. The library makes a
// map of a node's name each time it is asked, for field selectors that hardly
// anybody uses, so the node has a name only if the request looks at it.
func (r *Request) nodeOf(h *hostState) *corev1.Node {
	if !r.matchFields {
		return h.node
	}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: h.Name, Labels: h.Labels}}
}

// setCPU reads the CPU model and features. A host must have the features of
// policy "require" and must not have those of policy "forbid". The other
// policies do not restrict the choice of a host.
func (r *Request) setCPU(cpu *kubevirtv1.CPU) {
	if cpu == nil {
		return
	}
	switch cpu.Model {
	case "", kubevirtv1.CPUModeHostModel, kubevirtv1.CPUModeHostPassthrough:
	default:
		r.cpuModel = cpu.Model
	}
	for _, f := range cpu.Features {
		switch f.Policy {
		case "", "require":
			r.cpuFeatures = append(r.cpuFeatures, kubevirtv1.CPUFeatureLabel+f.Name)
		case "forbid":
			r.forbidden = append(r.forbidden, kubevirtv1.CPUFeatureLabel+f.Name)
		}
	}
	if cpu.DedicatedCPUPlacement {
		r.nodeLabels = append(r.nodeLabels, kubevirtv1.CPUManager)
	}
	if cpu.Realtime != nil {
		r.nodeLabels = append(r.nodeLabels, kubevirtv1.RealtimeLabel)
	}
}

func (r *Request) setArchitecture(spec *kubevirtv1.VirtualMachineInstanceSpec) {
	r.architecture = spec.Architecture
	if spec.Domain.LaunchSecurity != nil && spec.Domain.LaunchSecurity.SEV != nil {
		r.nodeLabels = append(r.nodeLabels, kubevirtv1.SEVLabel)
	}
}

// Regards returns the namespaces whose instances decide where the request may
// go, and those of which it keeps some away, once placed; AnyNamespace alone
// stands for all. What is only preferred does not count. Both are sorted, and
// nil for an instance without such rules.
func (r *Request) Regards() (counted, keptOut []string) {
	all, out := map[string]struct{}{}, map[string]struct{}{}
	for i := range r.affinity {
		r.affinity[i].addNamespaces(all)
	}
	for i := range r.anti {
		r.anti[i].addNamespaces(all)
		r.anti[i].addNamespaces(out)
	}
	for i := range r.spread {
		if r.spread[i].hard {
			all[r.Namespace] = struct{}{}
		}
	}
	return sortedNamespaces(all), sortedNamespaces(out)
}

func sortedNamespaces(names map[string]struct{}) []string {
	if _, any := names[AnyNamespace]; any {
		return []string{AnyNamespace}
	}
	return slices.Sorted(maps.Keys(names))
}

// KeepTo restricts the request to hosts; a second call intersects.
func (r *Request) KeepTo(hosts []string, reason string) {
	keep := make(map[string]struct{}, len(hosts))
	for _, h := range hosts {
		if _, ok := r.OnlyHosts[h]; ok || r.OnlyHosts == nil {
			keep[h] = struct{}{}
		}
	}
	r.OnlyHosts, r.OnlyReason = keep, reason
}

// Avoid excludes one host.
func (r *Request) Avoid(host, reason string) {
	if r.Exclude == nil {
		r.Exclude = map[string]string{}
	}
	r.Exclude[host] = reason
}

// CPUModel returns the named CPU model that the host must support, or "".
func (r *Request) CPUModel() string { return r.cpuModel }

// CPUFeatures returns the CPU features that the host must have.
func (r *Request) CPUFeatures() []string {
	out := make([]string, len(r.cpuFeatures))
	for i, l := range r.cpuFeatures {
		out[i] = strings.TrimPrefix(l, kubevirtv1.CPUFeatureLabel)
	}
	return out
}

// images returns the references of the container disks.
func images(spec *kubevirtv1.VirtualMachineInstanceSpec) []string {
	var out []string
	for _, v := range spec.Volumes {
		if v.ContainerDisk != nil && !slices.Contains(out, v.ContainerDisk.Image) {
			out = append(out, v.ContainerDisk.Image)
		}
	}
	return out
}

// labelSet is a shorthand for the type the selectors want.
func (r *Request) labelSet() labels.Set { return labels.Set(r.Labels) }
