package place

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

func TestPercent(t *testing.T) {
	for _, tc := range []struct{ part, whole, want int64 }{
		{0, 100, 0}, {1, 3, 33}, {199, 200, 99}, {3, 4, 75}, {100, 100, 100},
		{-1, 100, 0},    // overcommitted
		{101, 100, 100}, // more free than there is
		{1, 1, 100}, {0, 1, 0},
		{-1 << 60, 1000, 0}, {1 << 60, 1000, 100}, // amounts that no host has
		{5, 0, 0}, {5, -1, 0}, // a host that offers none of it
		{1 << 39, 1 << 40, 50}, {3 << 60, 1 << 62, 75}, // bytes of large hosts
	} {
		if got := percent(tc.part, tc.whole); got != tc.want {
			t.Errorf("%d of %d is %d percent, want %d", tc.part, tc.whole, got, tc.want)
		}
	}
}

func TestRoomCountsTheScarcerTwice(t *testing.T) {
	r := &Request{Resources: machine.Resources{CPUMilli: 1000, MemoryBytes: gib}}
	for name, tc := range map[string]struct {
		free machine.Resources
		want int64
	}{
		"both alike":           {machine.Resources{CPUMilli: 4000, MemoryBytes: 4 * gib}, 75},
		"memory is scarcer":    {machine.Resources{CPUMilli: 4000, MemoryBytes: 2 * gib}, (75 + 25 + 25) / 3},
		"processor is scarcer": {machine.Resources{CPUMilli: 2000, MemoryBytes: 4 * gib}, (25 + 75 + 25) / 3},
		"nothing is left":      {machine.Resources{CPUMilli: 1000, MemoryBytes: gib}, 0},
	} {
		h := &hostState{Prepared: Prepared{Host: host("h")}, use: &use{}, free: tc.free}
		if got := r.room(h); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}

// Each part of a host's score, apart from the others.
func TestHostScore(t *testing.T) {
	const room = weightRoom * 75
	const idle = weightLoad * 100
	soft := corev1.Taint{Key: "soft", Effect: corev1.TaintEffectPreferNoSchedule}
	hard := corev1.Taint{Key: "hard", Effect: corev1.TaintEffectNoSchedule}
	load := func(x float64) func(*Host) { return func(h *Host) { h.Load = x } }
	for name, tc := range map[string]struct {
		host    Host
		request func(*Request)
		want    int64
	}{
		"plain":           {host("h", noKVM), nil, room + idle},
		"KVM":             {host("h"), nil, room + idle + weightKVM*100},
		"half loaded":     {host("h", noKVM, load(0.5)), nil, room + idle/2},
		"fully loaded":    {host("h", noKVM, load(1)), nil, room},
		"load over all":   {host("h", noKVM, load(3)), nil, room},
		"load below none": {host("h", noKVM, load(-1)), nil, room + idle},
		"packing":         {host("h", noKVM), func(r *Request) { r.policy.Strategy = Pack }, weightRoom*25 + idle},
		"all its images":  {host("h", noKVM, withImages("a", "b")), func(r *Request) { r.Images = []string{"a", "b"} }, room + idle + weightImage*100},
		"half its images": {host("h", noKVM, withImages("a")), func(r *Request) { r.Images = []string{"a", "b"} }, room + idle + weightImage*50},
		"none of them":    {host("h", noKVM, withImages("c")), func(r *Request) { r.Images = []string{"a"} }, room + idle},
		"soft taint":      {host("h", noKVM, taint(soft)), nil, room + idle - softTaint},
		"two soft taints": {host("h", noKVM, taint(soft), taint(soft)), nil, room + idle - 2*softTaint},
		"a hard one":      {host("h", noKVM, taint(hard)), nil, room + idle},
		"soft is tolerated": {host("h", noKVM, taint(soft)), func(r *Request) {
			*r = *request(t, instance("a", spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
				s.Tolerations = []corev1.Toleration{{Key: "soft", Operator: corev1.TolerationOpExists}}
			})), DefaultPolicy())
			r.Resources = machine.Resources{CPUMilli: 1000, MemoryBytes: gib}
		}, room + idle},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Request{Resources: machine.Resources{CPUMilli: 1000, MemoryBytes: gib}, policy: DefaultPolicy()}
			if tc.request != nil {
				tc.request(r)
			}
			s := snapshot(tc.host)
			var h *hostState
			for _, state := range s.hosts {
				h = state
			}
			if got := r.hostScore(h); got != tc.want {
				t.Errorf("score %d, want %d", got, tc.want)
			}
		})
	}
}

// What is preferred is weighed against the best candidate, so that a weight of
// 100 in one manifest and of 1 in another count alike.
func TestPreferencesAreRelative(t *testing.T) {
	preferring := func(weight int32) func(*kubevirtv1.VirtualMachineInstance) {
		return spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
			s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
				Weight: weight, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpExists}}},
			}}}}
		})
	}
	together := func(weight int32) func(*kubevirtv1.VirtualMachineInstance) {
		return spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
			s.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{
				Weight: weight, PodAffinityTerm: podTerm(zoneLabel),
			}}}}
		})
	}
	for name, tc := range map[string]struct {
		vmi  *kubevirtv1.VirtualMachineInstance
		gain int64 // of the preferred host
	}{
		"a host, weight 1":   {instance("new", preferring(1)), weightAffinity * 100},
		"a host, weight 100": {instance("new", preferring(100)), weightAffinity * 100},
		"company, weight 1":  {instance("new", together(1)), weightTogether * 100},
		"company, weight 50": {instance("new", together(50)), weightTogether * 100},
	} {
		t.Run(name, func(t *testing.T) {
			s := snapshot(host("h1", zone("a")), host("h2", zone("b"), label("disk", "ssd")))
			put(s, instance("old"), "h2")
			r := request(t, tc.vmi, DefaultPolicy())
			var found []candidate
			byName := map[string]int{}
			for _, h := range s.hosts {
				h.free = h.Allocatable // the room is alike: only preferences differ
				byName[h.Name] = len(found)
				found = append(found, candidate{host: h})
			}
			s.score(r, s.relate(r), found, 1)
			if gain := found[byName["h2"]].score - found[byName["h1"]].score; gain != tc.gain {
				t.Errorf("the preferred host gains %d, want %d", gain, tc.gain)
			}
		})
	}
}

// A domain that is ahead of the emptiest is the worse the further it is.
func TestEvenness(t *testing.T) {
	spread := func(keys ...string) func(*kubevirtv1.VirtualMachineInstance) {
		return spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
			for _, key := range keys {
				s.TopologySpreadConstraints = append(s.TopologySpreadConstraints, corev1.TopologySpreadConstraint{
					MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: appSelector(),
				})
			}
		})
	}
	for name, tc := range map[string]struct {
		keys     []string
		ahead    int // instances in zone a; zone b has none
		inA, inB int64
	}{
		"no rule":                    {nil, 2, 0, 0},
		"even":                       {[]string{zoneLabel}, 0, 100, 100},
		"one ahead":                  {[]string{zoneLabel}, 1, 50, 100},
		"three ahead":                {[]string{zoneLabel}, 3, 25, 100},
		"a label that hosts lack":    {[]string{"rack"}, 3, 0, 0},
		"the mean of two rules":      {[]string{zoneLabel, "rack"}, 1, 25, 50},
		"two rules of the same kind": {[]string{zoneLabel, zoneLabel}, 1, 50, 100},
	} {
		t.Run(name, func(t *testing.T) {
			s := snapshot(host("h1", zone("a")), host("h2", zone("b")))
			for i := range tc.ahead {
				put(s, instance(string(rune('p'+i))), "h1")
			}
			r := request(t, instance("new", spread(tc.keys...)), DefaultPolicy())
			rel := &relations{spread: s.spreadStates(r)}
			for _, h := range s.hosts {
				want := map[string]int64{"h1": tc.inA, "h2": tc.inB}[h.Name]
				if got := rel.evenness(h); got != want {
					t.Errorf("%s: %d, want %d", h.Name, got, want)
				}
			}
		})
	}
}

// matchLabelKeys make a term look at instances that share the newcomer's own
// value, such as those of one revision.
func TestMatchLabelKeys(t *testing.T) {
	labelled := func(revision string) func(*kubevirtv1.VirtualMachineInstance) {
		return func(vmi *kubevirtv1.VirtualMachineInstance) {
			vmi.Labels = map[string]string{"app": "web"}
			if revision != "" {
				vmi.Labels["revision"] = revision
			}
		}
	}
	apart := spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
		term := corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, MatchLabelKeys: []string{"revision"}, TopologyKey: corev1.LabelHostname}
		s.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}}
	})
	for name, tc := range map[string]struct {
		old, new string
		fits     bool
	}{
		"another revision": {"1", "2", true},
		"the same one":     {"1", "1", false},
		"none of its own":  {"1", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := snapshot(host("h1"))
			put(s, instance("old", labelled(tc.old)), "h1")
			_, err := s.Place(request(t, instance("new", apart, labelled(tc.new)), DefaultPolicy()))
			if (err == nil) != tc.fits {
				t.Errorf("placed: %v, want %v", err, tc.fits)
			}
		})
	}
}

// The first of a group may start anywhere, the second only beside one of it.
func TestTheSecondOfAGroupJoinsTheFirst(t *testing.T) {
	beside := spec(func(s *kubevirtv1.VirtualMachineInstanceSpec) {
		s.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{podTerm(zoneLabel)}}}
	})
	for range 20 {
		s := snapshot(host("h1", zone("a")), host("h2", zone("b")), host("h3", zone("c"), memory(64*gib)))
		put(s, instance("old"), "h1") // one instance is enough to be beside
		if got, err := s.Place(request(t, instance("new", beside), DefaultPolicy())); err != nil || got != "h1" {
			t.Fatalf("placed on %q, %v; want h1", got, err)
		}
	}
}
