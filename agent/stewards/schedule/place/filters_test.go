package place

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

type vmiSpec = kubevirtv1.VirtualMachineInstanceSpec

// placedOn returns where the instance would go; the reason if nowhere.
func placedOn(t *testing.T, s *Snapshot, vmi *kubevirtv1.VirtualMachineInstance) string {
	t.Helper()
	host, err := s.Place(request(t, vmi, DefaultPolicy()))
	if err != nil {
		return err.Error()
	}
	return host
}

// feasibleHosts are the hosts that would take the instance, sorted.
func feasibleHosts(t *testing.T, s *Snapshot, vmi *kubevirtv1.VirtualMachineInstance) string {
	t.Helper()
	r := request(t, vmi, DefaultPolicy())
	var names []string
	for {
		host, err := s.Place(r)
		if err != nil {
			slices.Sort(names)
			return strings.Join(names, " ")
		}
		names = append(names, host)
		r.Avoid(host, "asked already")
	}
}

func TestWhatAProcessorMustHave(t *testing.T) {
	on := func(labels ...string) func(*Host) {
		return func(h *Host) {
			for _, l := range labels {
				h.Labels[l] = "true"
			}
		}
	}
	cpu := func(c kubevirtv1.CPU) func(*kubevirtv1.VirtualMachineInstance) {
		return spec(func(s *vmiSpec) { s.Domain.CPU = &c })
	}
	feature := kubevirtv1.CPUFeatureLabel
	for name, tc := range map[string]struct {
		host Host
		vmi  func(*kubevirtv1.VirtualMachineInstance)
		want string // a part of the refusal; empty if the host will do
	}{
		"the host's own model":           {host("h"), cpu(kubevirtv1.CPU{Model: kubevirtv1.CPUModeHostModel}), ""},
		"the host's processor":           {host("h"), cpu(kubevirtv1.CPU{Model: kubevirtv1.CPUModeHostPassthrough}), ""},
		"a model that a label names":     {host("h", on(kubevirtv1.CPUModelLabel+"Haswell")), cpu(kubevirtv1.CPU{Model: "Haswell"}), ""},
		"a model that it lacks":          {host("h"), cpu(kubevirtv1.CPU{Model: "Haswell"}), "lacked CPU model Haswell"},
		"any model, emulated":            {host("h", noKVM), cpu(kubevirtv1.CPU{Model: "Haswell", Features: []kubevirtv1.CPUFeature{{Name: "avx"}}}), ""},
		"a feature":                      {host("h", on(feature+"avx")), cpu(kubevirtv1.CPU{Features: []kubevirtv1.CPUFeature{{Name: "avx", Policy: "require"}}}), ""},
		"a feature that it lacks":        {host("h"), cpu(kubevirtv1.CPU{Features: []kubevirtv1.CPUFeature{{Name: "avx"}}}), "lacked label " + feature + "avx"},
		"a feature that it must lack":    {host("h", on(feature+"avx")), cpu(kubevirtv1.CPU{Features: []kubevirtv1.CPUFeature{{Name: "avx", Policy: "forbid"}}}), "had forbidden label " + feature + "avx"},
		"a forbidden one that it lacks":  {host("h"), cpu(kubevirtv1.CPU{Features: []kubevirtv1.CPUFeature{{Name: "avx", Policy: "forbid"}}}), ""},
		"CPUs of its own":                {host("h", on(kubevirtv1.CPUManager)), cpu(kubevirtv1.CPU{DedicatedCPUPlacement: true}), ""},
		"CPUs of its own, not here":      {host("h"), cpu(kubevirtv1.CPU{DedicatedCPUPlacement: true}), "lacked label " + kubevirtv1.CPUManager},
		"CPUs of its own, emulated":      {host("h", noKVM), cpu(kubevirtv1.CPU{DedicatedCPUPlacement: true}), "lacked label " + kubevirtv1.CPUManager},
		"real time":                      {host("h", on(kubevirtv1.RealtimeLabel)), cpu(kubevirtv1.CPU{Realtime: &kubevirtv1.Realtime{}}), ""},
		"real time, not here":            {host("h"), cpu(kubevirtv1.CPU{Realtime: &kubevirtv1.Realtime{}}), "lacked label " + kubevirtv1.RealtimeLabel},
		"encrypted memory, not here":     {host("h"), spec(func(s *vmiSpec) { s.Domain.LaunchSecurity = &kubevirtv1.LaunchSecurity{SEV: &kubevirtv1.SEV{}} }), "lacked label " + kubevirtv1.SEVLabel},
		"its architecture":               {host("h", label(corev1.LabelArchStable, "arm64")), spec(func(s *vmiSpec) { s.Architecture = "arm64" }), ""},
		"another architecture":           {host("h", label(corev1.LabelArchStable, "amd64")), spec(func(s *vmiSpec) { s.Architecture = "arm64" }), "lacked architecture arm64"},
		"an architecture that is unsaid": {host("h"), spec(func(s *vmiSpec) { s.Architecture = "arm64" }), ""},
		"any architecture":               {host("h", label(corev1.LabelArchStable, "arm64")), func(*kubevirtv1.VirtualMachineInstance) {}, ""},
		"a host that is dead":            {host("h", problem("dead")), func(*kubevirtv1.VirtualMachineInstance) {}, "1 dead"},
	} {
		t.Run(name, func(t *testing.T) {
			got := placedOn(t, snapshot(tc.host), instance("a", tc.vmi))
			if tc.want == "" && got != "h" || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
	r := request(t, instance("a", cpu(kubevirtv1.CPU{Model: "Haswell", Features: []kubevirtv1.CPUFeature{{Name: "avx"}, {Name: "hle", Policy: "forbid"}}})), DefaultPolicy())
	if r.CPUModel() != "Haswell" || !slices.Equal(r.CPUFeatures(), []string{"avx"}) {
		t.Errorf("the offer is asked for model %s with %v", r.CPUModel(), r.CPUFeatures())
	}
}

// A required affinity to a group of which the newcomer is none needs the group, and a
// host without the label is near to nothing.
func TestAffinityNeedsTheLabel(t *testing.T) {
	near := spec(func(s *vmiSpec) {
		s.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{podTerm(zoneLabel)}}}
	})
	s := snapshot(host("a1", zone("a")), host("b1", zone("b")), host("none"))
	if got := feasibleHosts(t, s, instance("new", near)); got != "a1 b1" {
		t.Errorf("the first would go to %q", got)
	}
	stranger := instance("new", near, func(v *kubevirtv1.VirtualMachineInstance) { v.Labels = nil })
	if got := feasibleHosts(t, s, stranger); got != "" {
		t.Errorf("near to nobody: %q", got)
	}
	put(s, instance("old"), "a1")
	if got := feasibleHosts(t, s, stranger); got != "a1" {
		t.Errorf("near to the old: %q", got)
	}
	elsewhere := instance("new", near)
	elsewhere.Namespace = "shop"
	if got := feasibleHosts(t, s, elsewhere); got != "a1 b1" {
		t.Errorf("the first of another namespace would go to %q", got)
	}
}

// What a running instance keeps away it keeps away until it ends or changes, and those
// only that it means.
func TestAGuardEndsWithItsInstance(t *testing.T) {
	anywhere := func(sel *metav1.LabelSelector, names ...string) func(*kubevirtv1.VirtualMachineInstance) {
		return spec(func(s *vmiSpec) {
			term := podTerm(zoneLabel)
			term.NamespaceSelector, term.Namespaces = sel, names
			s.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}}
		})
	}
	in := func(namespace string) *kubevirtv1.VirtualMachineInstance {
		vmi := instance("new")
		vmi.Namespace = namespace
		return vmi
	}
	blue := &metav1.LabelSelector{MatchLabels: map[string]string{"team": "blue"}}
	for name, tc := range map[string]struct {
		guard       func(*kubevirtv1.VirtualMachineInstance)
		keeps, lets string // namespaces
	}{
		"its own namespace":        {antiAffinity(zoneLabel), "default", "shop"},
		"a namespace by name":      {anywhere(nil, "shop"), "shop", "default"},
		"a namespace by label":     {anywhere(blue), "shop", "default"},
		"by label and by name":     {anywhere(blue, "default"), "default", "yard"},
		"all namespaces":           {anywhere(&metav1.LabelSelector{}), "yard", ""},
		"one of several that keep": {func(v *kubevirtv1.VirtualMachineInstance) { antiAffinity(zoneLabel)(v) }, "default", "yard"},
	} {
		t.Run(name, func(t *testing.T) {
			s := snapshot(host("a1", zone("a")), host("b1", zone("b")))
			s.SetNamespace("default", map[string]string{})
			s.SetNamespace("shop", map[string]string{"team": "blue"})
			s.SetNamespace("yard", map[string]string{"team": "red"})
			guard, second := instance("old", tc.guard), instance("older", tc.guard)
			put(s, guard, "a1")
			put(s, second, "a1")
			if got := feasibleHosts(t, s, in(tc.keeps)); got != "b1" {
				t.Errorf("%s would go to %q", tc.keeps, got)
			}
			if got := feasibleHosts(t, s, in(tc.lets)); tc.lets != "" && got != "a1 b1" {
				t.Errorf("%s would go to %q", tc.lets, got)
			}
			other := in(tc.keeps)
			if other.Labels = map[string]string{"app": "db"}; feasibleHosts(t, s, other) != "a1 b1" {
				t.Error("an instance that it does not mean is kept away")
			}
			same := in(tc.keeps)
			same.UID = guard.UID
			s.RemoveInstance(string(second.UID))
			if got := feasibleHosts(t, s, same); got != "a1 b1" {
				t.Errorf("it keeps itself away: would go to %q", got)
			}
			// Without its rules, and then without the instance.
			put(s, second, "b1")
			plain := guard.DeepCopy()
			plain.Spec.Affinity = nil
			put(s, plain, "a1")
			if got := feasibleHosts(t, s, in(tc.keeps)); got != "a1" {
				t.Errorf("one keeps no one away any more: %q", got)
			}
			s.RemoveInstance(string(second.UID))
			if got := feasibleHosts(t, s, in(tc.keeps)); got != "a1 b1" || len(s.guarded) != 0 {
				t.Errorf("all are gone: %q, with guards of %d namespaces", got, len(s.guarded))
			}
		})
	}
}

// A namespace that is gone has no labels.
func TestANamespaceThatIsGoneIsNotSelected(t *testing.T) {
	s := snapshot(host("h1"))
	s.SetNamespace("shop", map[string]string{"team": "blue"})
	old := instance("old")
	old.Namespace = "shop"
	put(s, old, "h1")
	apart := instance("new", spec(func(s *vmiSpec) {
		term := podTerm(corev1.LabelHostname)
		term.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "blue"}}
		s.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}}
	}))
	if got := feasibleHosts(t, s, apart); got != "" {
		t.Fatalf("would go to %q", got)
	}
	s.SetNamespace("shop", nil)
	if got := feasibleHosts(t, s, apart); got != "h1" {
		t.Errorf("would go to %q", got)
	}
}

// What a decision depends on is what its claim is made conditional on.
func TestRegards(t *testing.T) {
	affinity := func(a corev1.Affinity) func(*kubevirtv1.VirtualMachineInstance) {
		return spec(func(s *vmiSpec) { s.Affinity = &a })
	}
	terms := func(names ...string) []corev1.PodAffinityTerm {
		term := podTerm(zoneLabel)
		term.Namespaces = names
		return []corev1.PodAffinityTerm{term}
	}
	anyOf := terms("b")
	anyOf[0].NamespaceSelector = &metav1.LabelSelector{}
	for name, tc := range map[string]struct {
		vmi              func(*kubevirtv1.VirtualMachineInstance)
		counted, keptOut []string
	}{
		"nothing":            {func(*kubevirtv1.VirtualMachineInstance) {}, nil, nil},
		"affinity":           {affinity(corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms("b", "a")}}), []string{"a", "b"}, nil},
		"anti-affinity":      {affinity(corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms()}}), []string{"default"}, []string{"default"}},
		"of all namespaces":  {affinity(corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: anyOf}}), []string{AnyNamespace}, []string{AnyNamespace}},
		"near to all":        {affinity(corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: anyOf}}), []string{AnyNamespace}, nil},
		"spread":             {spread(asIs), []string{"default"}, nil},
		"preferred spread":   {spread(func(c *corev1.TopologySpreadConstraint) { c.WhenUnsatisfiable = corev1.ScheduleAnyway }), nil, nil},
		"preferred affinity": {affinity(corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: terms("a")[0]}}}}), nil, nil},
		"affinity and spread": {func(v *kubevirtv1.VirtualMachineInstance) {
			spread(asIs)(v)
			affinity(corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms("z")}})(v)
		}, []string{"default", "z"}, nil},
	} {
		counted, keptOut := request(t, instance("a", tc.vmi), DefaultPolicy()).Regards()
		if !slices.Equal(counted, tc.counted) || !slices.Equal(keptOut, tc.keptOut) {
			t.Errorf("%s: counted %v, kept out %v; want %v and %v", name, counted, keptOut, tc.counted, tc.keptOut)
		}
	}
}

func TestMoreBadFieldsAreNamed(t *testing.T) {
	bad := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}}}
	badTerm := []corev1.PodAffinityTerm{podTerm(zoneLabel), {LabelSelector: appSelector(), TopologyKey: "x", NamespaceSelector: bad}}
	for want, edit := range map[string]func(*vmiSpec){
		"spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[1].namespaceSelector": func(s *vmiSpec) {
			s.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: badTerm}}
		},
		"spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.namespaceSelector": func(s *vmiSpec) {
			s.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: badTerm[1]}}}}
		},
		"spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution": func(s *vmiSpec) {
			s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
				Weight: 1, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "a", Operator: "Near"}}}}}}}
		},
		"spec.topologySpreadConstraints[0].labelSelector": func(s *vmiSpec) {
			s.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "x", LabelSelector: bad}}
		},
		"spec.topologySpreadConstraints[1]": func(s *vmiSpec) {
			s.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "x"}, {MaxSkew: 1}}
		},
	} {
		_, err := NewRequest(instance("a", spec(edit)), DefaultPolicy())
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want it to name %s", err, want)
		}
	}
}

func TestPoliciesThatMakeNoSense(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*Policy)
		want []string
	}{
		"the default":      {func(*Policy) {}, nil},
		"pack":             {func(p *Policy) { p.Strategy = Pack }, nil},
		"one host":         {func(p *Policy) { p.SampleHosts = 1 }, nil},
		"no host":          {func(p *Policy) { p.SampleHosts = 0 }, []string{"sampleHosts is 0"}},
		"another strategy": {func(p *Policy) { p.Strategy = "best" }, []string{`strategy is "best"`}},
		"all at once":      {func(p *Policy) { *p = Policy{} }, []string{"strategy", "sampleHosts", "Percent"}},
	} {
		p := DefaultPolicy()
		tc.edit(&p)
		err := p.Validate()
		if (err != nil) != (tc.want != nil) {
			t.Errorf("%s: %v", name, err)
		}
		for _, part := range tc.want {
			if err != nil && !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v does not tell of %s", name, err, part)
			}
		}
	}
}

// A host that left and comes back has what its instances use; a Node may name its host
// itself.
func TestAHostThatComesBack(t *testing.T) {
	s := snapshot(host("h1"), host("h2", label(corev1.LabelHostname, "other")))
	put(s, instance("old"), "h1", "h2")
	before := s.byName["h1"].free
	s.RemoveHost("h1")
	s.SetHost(host("h1"))
	if h := s.byName["h1"]; !h.free.Equal(before) || h.instances != 1 {
		t.Errorf("%d instances, free %+v, was %+v", h.instances, h.free, before)
	}
	s.RemoveInstance("uid-old")
	if h := s.byName["h1"]; !h.free.Equal(h.Allocatable) || h.instances != 0 {
		t.Errorf("%d instances, free %+v", h.instances, h.free)
	}
	s.RemoveInstance("nobody")
	by := func(name string) *kubevirtv1.VirtualMachineInstance {
		return instance("new", spec(func(s *vmiSpec) { s.NodeSelector = map[string]string{corev1.LabelHostname: name} }))
	}
	if placedOn(t, s, by("other")) != "h2" || placedOn(t, s, by("h1")) != "h1" || feasibleHosts(t, s, by("h2")) != "" {
		t.Error("the labels of a Node do not count")
	}
	// Two volumes of one image need it once.
	vmi := instance("new", spec(func(s *vmiSpec) {
		for _, name := range []string{"a", "b", "c"} {
			s.Volumes = append(s.Volumes, kubevirtv1.Volume{Name: name})
		}
		for i := range 2 {
			s.Volumes[i].ContainerDisk = &kubevirtv1.ContainerDiskSource{Image: "i"}
		}
	}))
	if r := request(t, vmi, DefaultPolicy()); !slices.Equal(r.Images, []string{"i"}) {
		t.Errorf("images %v", r.Images)
	}
}

// Node affinity may name hosts by their field, required or preferred, beside
// terms that look at labels.
func TestNodeAffinityNamesHosts(t *testing.T) {
	ssd := corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpExists}}}
	h2 := corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{
		{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{"h2"}},
	}}
	affinity := func(na corev1.NodeAffinity) func(*kubevirtv1.VirtualMachineInstance) {
		return spec(func(s *vmiSpec) { s.Affinity = &corev1.Affinity{NodeAffinity: &na} })
	}
	required := affinity(corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{ssd, h2},
	}})
	preferred := affinity(corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{
		{Weight: 1, Preference: ssd}, {Weight: 100, Preference: h2},
	}})
	s := snapshot(host("h1"), host("h2"), host("h3"), host("h4"))
	if got := feasibleHosts(t, s, instance("vm", required)); got != "h2" {
		t.Errorf("required: %q, want h2", got)
	}
	for i := range 10 {
		if got := placedOn(t, s, instance(fmt.Sprint("vm", i), preferred)); got != "h2" {
			t.Errorf("preferred: %q, want h2", got)
		}
	}
}
