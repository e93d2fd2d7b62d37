package place

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// Which namespaces a rule looks at: its own where it says nothing, those it
// names, or those whose labels it selects.
func TestRulesLookAtTheirNamespaces(t *testing.T) {
	apart := func(change func(*corev1.PodAffinityTerm)) func(*kubevirtv1.VirtualMachineInstance) {
		return spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
			term := podTerm(corev1.LabelHostname)
			change(&term)
			s.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}}
		})
	}
	in := func(namespace string) func(*kubevirtv1.VirtualMachineInstance) {
		return func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Namespace = namespace }
	}
	selecting := func(team string) func(*corev1.PodAffinityTerm) {
		return func(t *corev1.PodAffinityTerm) {
			t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": team}}
		}
	}
	for name, tc := range map[string]struct {
		rule  func(*corev1.PodAffinityTerm)
		other string // namespace of the instance that runs
		fits  bool
	}{
		"its own":              {func(*corev1.PodAffinityTerm) {}, "default", false},
		"not another's":        {func(*corev1.PodAffinityTerm) {}, "shop", true},
		"one that is named":    {func(t *corev1.PodAffinityTerm) { t.Namespaces = []string{"shop"} }, "shop", false},
		"then not its own":     {func(t *corev1.PodAffinityTerm) { t.Namespaces = []string{"shop"} }, "default", true},
		"one that is selected": {selecting("blue"), "shop", false},
		"not one that is not":  {selecting("red"), "shop", true},
		"all by an empty one":  {func(t *corev1.PodAffinityTerm) { t.NamespaceSelector = &metav1.LabelSelector{} }, "shop", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := snapshot(host("h1"))
			s.SetNamespace("default", map[string]string{})
			s.SetNamespace("shop", map[string]string{"team": "blue"})
			put(s, instance("old", in(tc.other)), "h1")
			_, err := s.Place(request(t, instance("new", apart(tc.rule)), DefaultPolicy()))
			if (err == nil) != tc.fits {
				t.Errorf("placed: %v, want %v", err, tc.fits)
			}
		})
	}
}

// A domain whose only hosts are tainted counts as empty, unless the rule honours
// taints: then it does not count at all.
func TestSpreadHonoursTaints(t *testing.T) {
	honor, ignore := corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore
	repels := taint(corev1.Taint{Key: "k", Effect: corev1.TaintEffectNoSchedule})
	for name, tc := range map[string]struct {
		policy *corev1.NodeInclusionPolicy
		fits   bool
	}{"by default it counts": {nil, false}, "ignored it counts": {&ignore, false}, "honoured it does not": {&honor, true}} {
		t.Run(name, func(t *testing.T) {
			s := snapshot(host("h1", zone("a")), host("h2", zone("b"), repels))
			put(s, instance("old"), "h1")
			_, err := s.Place(request(t, instance("new", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
				s.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
					MaxSkew: 1, TopologyKey: zoneLabel, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: appSelector(), NodeTaintsPolicy: tc.policy,
				}}
			})), DefaultPolicy()))
			if (err == nil) != tc.fits {
				t.Errorf("placed: %v, want %v", err, tc.fits)
			}
		})
	}
}
