package place

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

func BenchmarkPlace1000Hosts(b *testing.B) {
	for _, bc := range []struct {
		name string
		edit func(*kubevirtv1.VirtualMachineInstance)
	}{
		{"plain", func(*kubevirtv1.VirtualMachineInstance) {}},
		{"selector", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) { s.NodeSelector = map[string]string{"disk": "ssd"} })},
		{"antiaffinity", antiAffinity(corev1.LabelHostname)},
	} {
		b.Run(bc.name, func(b *testing.B) { benchmarkPlace(b, 1000, bc.edit) })
	}
}

func BenchmarkPlace5000Hosts(b *testing.B) {
	b.Run("constraints", func(b *testing.B) { benchmarkPlace(b, 5000, constrained) })
}

// constrained is an instance with all kinds of constraints.
func constrained(vmi *kubevirtv1.VirtualMachineInstance) {
	antiAffinity(corev1.LabelHostname)(vmi)
	vmi.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	vmi.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: zoneLabel, Operator: corev1.NodeSelectorOpExists}},
		}}},
		PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 10, Preference: corev1.NodeSelectorTerm{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{"ssd"}}},
		}}},
	}
	spread(func(c *corev1.TopologySpreadConstraint) { c.TopologyKey = zoneLabel })(vmi)
	vmi.Spec.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}
}

// benchmarkPlace measures whole decisions: preparing the request, placing it
// and recording the outcome, on hosts that fill up as it goes.
func benchmarkPlace(b *testing.B, hosts int, edit func(*kubevirtv1.VirtualMachineInstance)) {
	running := 5 * hosts
	s := NewSnapshot()
	for i := range hosts {
		h := host(fmt.Sprintf("host%04d", i), zone(fmt.Sprint("z", i%5)), label("disk", []string{"ssd", "hdd"}[i%2]))
		h.Allocatable = machine.Resources{CPUMilli: 128000, MemoryBytes: 1 << 40}
		s.SetHost(h)
	}
	for i := range running {
		vmi := instance(fmt.Sprint("old", i))
		vmi.Namespace = fmt.Sprint("ns", i%100)
		put(s, vmi, fmt.Sprintf("host%04d", i%hosts))
	}
	policy := DefaultPolicy()
	i := 0
	for b.Loop() {
		vmi := instance(fmt.Sprint("vm", i), edit)
		vmi.Namespace = fmt.Sprint("ns", i%100)
		i++
		r, err := NewRequest(vmi, policy)
		if err != nil {
			b.Fatal(err)
		}
		d, err := s.Place(r)
		if err != nil {
			b.Fatal(err)
		}
		s.SetInstance(Instance{UID: r.UID, Namespace: r.Namespace, Labels: r.Labels, Hosts: []string{d}, Resources: r.Resources, Affinity: r.Affinity})
		if i%2000 == 0 {
			b.StopTimer()
			for k := i - 2000; k < i; k++ {
				s.RemoveInstance(fmt.Sprint("uid-vm", k))
			}
			b.StartTimer()
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "placements/s")
}
