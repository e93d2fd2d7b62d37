package place

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// spread lets an instance spread over zones, at most one ahead.
func spread(change func(c *corev1.TopologySpreadConstraint)) func(*kubevirtv1.VirtualMachineInstance) {
	return spec(func(s *vmiSpec) {
		c := corev1.TopologySpreadConstraint{MaxSkew: 1, TopologyKey: zoneLabel, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: appSelector()}
		change(&c)
		s.TopologySpreadConstraints = append(s.TopologySpreadConstraints, c)
	})
}

func asIs(*corev1.TopologySpreadConstraint) {}

// How far the zones may differ, and which hosts and instances count.
func TestSpread(t *testing.T) {
	honor, ignore := corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore
	inA := spec(func(s *vmiSpec) { s.NodeSelector = map[string]string{"disk": "ssd"} })
	zones := func() *Snapshot {
		return snapshot(host("a1", zone("a"), label("disk", "ssd")), host("a2", zone("a"), label("disk", "ssd")), host("b1", zone("b")), host("none"))
	}
	revision := func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Labels["revision"] = vmi.Name[:1] }
	for name, tc := range map[string]struct {
		vmi   func(*kubevirtv1.VirtualMachineInstance)
		old   map[string]string // instances and their hosts
		hosts string
	}{
		"empty zones":              {spread(asIs), nil, "a1 a2 b1"},
		"one ahead":                {spread(asIs), map[string]string{"p": "a1"}, "b1"},
		"even again":               {spread(asIs), map[string]string{"p": "a1", "q": "b1"}, "a1 a2 b1"},
		"two may be ahead":         {spread(func(c *corev1.TopologySpreadConstraint) { c.MaxSkew = 2 }), map[string]string{"p": "a1"}, "a1 a2 b1"},
		"two are ahead":            {spread(func(c *corev1.TopologySpreadConstraint) { c.MaxSkew = 2 }), map[string]string{"p": "a1", "q": "a2"}, "b1"},
		"only preferred":           {spread(func(c *corev1.TopologySpreadConstraint) { c.WhenUnsatisfiable = corev1.ScheduleAnyway }), map[string]string{"p": "a1"}, "a1 a2 b1 none"},
		"itself does not count":    {spread(asIs), map[string]string{"new": "a1"}, "a1 a2 b1"},
		"hosts that it cannot use": {func(v *kubevirtv1.VirtualMachineInstance) { spread(asIs)(v); inA(v) }, map[string]string{"p": "a1"}, "a1 a2"},
		"hosts that it cannot use, said": {func(v *kubevirtv1.VirtualMachineInstance) {
			spread(func(c *corev1.TopologySpreadConstraint) { c.NodeAffinityPolicy = &honor })(v)
			inA(v)
		}, map[string]string{"p": "a1"}, "a1 a2"},
		"hosts that it cannot use, still": {func(v *kubevirtv1.VirtualMachineInstance) {
			spread(func(c *corev1.TopologySpreadConstraint) { c.NodeAffinityPolicy = &ignore })(v)
			inA(v)
		}, map[string]string{"p": "a1"}, ""},
		"three zones are wanted": {spread(func(c *corev1.TopologySpreadConstraint) { c.MinDomains = new(int32(3)) }), map[string]string{"p": "a1", "q": "b1"}, ""},
		"two zones are wanted":   {spread(func(c *corev1.TopologySpreadConstraint) { c.MinDomains = new(int32(2)) }), map[string]string{"p": "a1", "q": "b1"}, "a1 a2 b1"},
		"another revision": {func(v *kubevirtv1.VirtualMachineInstance) {
			spread(func(c *corev1.TopologySpreadConstraint) { c.MatchLabelKeys = []string{"revision", "unset"} })(v)
			revision(v)
		}, map[string]string{"p": "a1"}, "a1 a2 b1"},
		"the same revision": {func(v *kubevirtv1.VirtualMachineInstance) {
			spread(func(c *corev1.TopologySpreadConstraint) { c.MatchLabelKeys = []string{"revision", "unset"} })(v)
			revision(v)
		}, map[string]string{"nearly": "a1"}, "b1"},
		"others than those that count": {func(v *kubevirtv1.VirtualMachineInstance) { spread(asIs)(v); v.Labels = map[string]string{"app": "db"} }, map[string]string{"p": "a1"}, "a1 a2 b1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := zones()
			for old, on := range tc.old {
				put(s, instance(old, revision), on)
			}
			if got := feasibleHosts(t, s, instance("new", tc.vmi)); got != tc.hosts {
				t.Errorf("would go to %q, want %q", got, tc.hosts)
			}
		})
	}
	got := placedOn(t, snapshot(host("none")), instance("new", spread(asIs)))
	if want := "0/1 hosts are available: 1 didn't match topology spread constraints (missing label " + zoneLabel + ")"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The second rule of two counts as the first does.
func TestEverySpreadRuleHolds(t *testing.T) {
	s := snapshot(host("a1", zone("a"), label("rack", "1")), host("a2", zone("a"), label("rack", "2")), host("b1", zone("b"), label("rack", "1")))
	both := func(v *kubevirtv1.VirtualMachineInstance) {
		spread(asIs)(v)
		spread(func(c *corev1.TopologySpreadConstraint) { c.TopologyKey = "rack" })(v)
	}
	put(s, instance("p"), "a2")
	if got := feasibleHosts(t, s, instance("new", both)); got != "b1" {
		t.Errorf("would go to %q, want b1", got)
	}
}

// Every rule of an instance holds, whichever others it has.
func TestRulesHoldTogether(t *testing.T) {
	affinity := func(s *vmiSpec) *corev1.Affinity {
		if s.Affinity == nil {
			s.Affinity = &corev1.Affinity{}
		}
		return s.Affinity
	}
	// Each rule alone leaves one of the hosts out: "old" is on a1, and others are on b1.
	group := func(app, key string) corev1.PodAffinityTerm {
		return corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, TopologyKey: key}
	}
	rules := map[string]struct {
		add  func(*vmiSpec)
		lets []string
	}{
		"near db": {func(s *vmiSpec) {
			affinity(s).PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{group("db", zoneLabel)}}
		}, []string{"b1", "b2"}},
		"not with db": {func(s *vmiSpec) {
			affinity(s).PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{group("db", corev1.LabelHostname)}}
		}, []string{"a1", "a2", "b2"}},
		"spread": {func(s *vmiSpec) {
			s.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: zoneLabel, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: appSelector()}}
		}, []string{"b1", "b2"}},
	}
	for first, a := range rules {
		for second, b := range rules {
			s := snapshot(host("a1", zone("a")), host("a2", zone("a")), host("b1", zone("b")), host("b2", zone("b")))
			put(s, instance("old"), "a1")
			put(s, instance("db", func(v *kubevirtv1.VirtualMachineInstance) { v.Labels = map[string]string{"app": "db"} }), "b1")
			var want []string
			for _, h := range hostNames(s) {
				if slices.Contains(a.lets, h) && slices.Contains(b.lets, h) {
					want = append(want, h)
				}
			}
			if got := feasibleHosts(t, s, instance("new", spec(a.add), spec(b.add))); got != strings.Join(want, " ") {
				t.Errorf("%s and %s: would go to %q, want %q", first, second, got, want)
			}
		}
	}
}
