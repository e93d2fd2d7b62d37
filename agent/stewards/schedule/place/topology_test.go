package place

import (
	"fmt"
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"pgregory.net/rapid"
)

// worldSelectors select by the label app, everything and nothing.
var worldSelectors = []*metav1.LabelSelector{
	appSelector(),
	{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"web"}}}},
	{},
	nil,
}

// world is what a snapshot was told, to make another of it.
type world struct {
	hosts  map[string]Host
	placed map[string]Instance
}

func (w *world) snapshot() *Snapshot {
	s := NewSnapshot()
	for _, h := range w.hosts {
		s.SetHost(h)
	}
	for _, in := range w.placed {
		s.SetInstance(in)
	}
	s.SetNamespace("default", map[string]string{})
	s.SetNamespace("shop", map[string]string{})
	return s
}

// worldHost draws a host, whose labels may be other ones than it had.
func worldHost(t *rapid.T) Host {
	h := host(fmt.Sprint("h", rapid.IntRange(0, 7).Draw(t, "host")))
	for _, key := range []string{zoneLabel, "rack"} {
		if v := rapid.IntRange(0, 3).Draw(t, key); v > 0 {
			h.Labels[key] = fmt.Sprint(key, v)
		}
	}
	if rapid.Bool().Draw(t, "tainted") {
		h.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
	}
	if rapid.Bool().Draw(t, "ssd") {
		h.Labels["disk"] = "ssd"
	}
	return h
}

// worldInstance draws an instance with rules about others.
func worldInstance(t *rapid.T) *kubevirtv1.VirtualMachineInstance {
	vmi := instance(fmt.Sprint("vm", rapid.IntRange(0, 14).Draw(t, "name")))
	vmi.Namespace = rapid.SampledFrom([]string{"default", "shop"}).Draw(t, "namespace")
	vmi.Labels["app"] = rapid.SampledFrom([]string{"web", "db"}).Draw(t, "app")
	if rapid.Bool().Draw(t, "selector") {
		vmi.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	}
	selector := rapid.SampledFrom(worldSelectors)
	key := rapid.SampledFrom([]string{corev1.LabelHostname, zoneLabel, "rack"})
	term := rapid.Custom(func(t *rapid.T) corev1.PodAffinityTerm {
		return corev1.PodAffinityTerm{
			LabelSelector: selector.Draw(t, "selects"), TopologyKey: key.Draw(t, "key"),
			Namespaces: rapid.SampledFrom([][]string{nil, {"shop"}, {"shop", "default"}}).Draw(t, "namespaces"),
		}
	})
	terms := rapid.SliceOfN(term, 0, 1)
	vmi.Spec.Affinity = &corev1.Affinity{
		PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms.Draw(t, "affinity")},
		PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: terms.Draw(t, "anti-affinity"),
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
				{Weight: 10, PodAffinityTerm: term.Draw(t, "preferred")},
			},
		},
	}
	honor := corev1.NodeInclusionPolicyHonor
	for range rapid.IntRange(0, 2).Draw(t, "spread") {
		spread(func(c *corev1.TopologySpreadConstraint) {
			c.TopologyKey, c.LabelSelector = key.Draw(t, "key"), selector.Draw(t, "selects")
			if rapid.Bool().Draw(t, "honours taints") {
				c.NodeTaintsPolicy = &honor
			}
			if rapid.Bool().Draw(t, "soft") {
				c.WhenUnsatisfiable = corev1.ScheduleAnyway
			}
		})(vmi)
	}
	return vmi
}

// Whatever hosts and instances come, go and change, a snapshot that remembers
// its counts relates a request to the instances as a plain count does, and
// decides like a snapshot that has just been made.
func TestWhatIsRememberedIsTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{hosts: map[string]Host{}, placed: map[string]Instance{}}
		for range 3 {
			h := worldHost(t)
			w.hosts[h.Name] = h
		}
		s := w.snapshot()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				h := worldHost(t)
				w.hosts[h.Name] = h
				s.SetHost(h)
			case 1:
				name := worldHost(t).Name
				delete(w.hosts, name)
				s.RemoveHost(name)
			case 2, 3:
				uid := string(worldInstance(t).UID)
				delete(w.placed, uid)
				s.RemoveInstance(uid)
			default:
				w.place(t, s, worldInstance(t))
			}
		}
	})
}

// place places an instance, which may be placed already, and sets it on hosts
// that are chosen or any.
func (w *world) place(t *rapid.T, s *Snapshot, vmi *kubevirtv1.VirtualMachineInstance) {
	r, err := NewRequest(vmi, DefaultPolicy())
	if err != nil {
		t.Fatal(err)
	}
	w.relate(t, s, r)
	got, why := s.Place(r)
	want, whyWant := w.snapshot().Place(r)
	if got != want || fmt.Sprint(why) != fmt.Sprint(whyWant) {
		t.Fatalf("%s: %q (%v), want %q (%v)", vmi.Name, got, why, want, whyWant)
	}
	on := rapid.SliceOfN(rapid.Map(rapid.IntRange(0, 7), func(i int) string { return fmt.Sprint("h", i) }), 1, 2).Draw(t, "on")
	if why == nil && rapid.Bool().Draw(t, "where chosen") {
		on[0] = got
	}
	in := Instance{UID: r.UID, Namespace: r.Namespace, Labels: r.Labels, Hosts: on, Resources: r.Resources, Affinity: r.Affinity}
	w.placed[in.UID] = in
	s.SetInstance(in)
}

// relate compares the relations of a request with a plain count.
func (w *world) relate(t *rapid.T, s *Snapshot, r *Request) {
	rel := s.relate(r)
	same := func(what string, got, want domains) {
		if !maps.Equal(got, want) {
			t.Fatalf("%s of %s: %v, want %v", what, r.UID, got, want)
		}
	}
	for i := range r.affinity {
		same("affinity", rel.affinity[i], w.count(&r.affinity[i], r.UID))
	}
	for i := range r.anti {
		same("anti-affinity", rel.anti[i], w.count(&r.anti[i], r.UID))
	}
	for i := range r.weighted {
		same("preferred affinity", rel.weighted[i], w.count(&r.weighted[i].term, r.UID))
	}
	for i := range r.spread {
		same("spread", rel.spread[i].counts, w.spread(s, r, &r.spread[i]))
	}
}

// count counts the instances of a term one by one.
func (w *world) count(t *term, self string) domains {
	d := domains{}
	for uid, in := range w.placed {
		if _, regarded := t.namespaces[in.Namespace]; !regarded || uid == self || !t.selector.Matches(labels.Set(in.Labels)) {
			continue
		}
		for _, name := range in.Hosts {
			if v := Prepare(w.hosts[name]).Labels[t.topologyKey]; v != "" {
				d[v]++
			}
		}
	}
	return d
}

// spread counts the instances of a rule in the domains that it counts.
func (w *world) spread(s *Snapshot, r *Request, rule *spreadRule) domains {
	all := w.count(&term{selector: rule.selector, topologyKey: rule.key, namespaces: set([]string{r.Namespace})}, r.UID)
	d := domains{}
	for _, h := range s.hosts {
		if v, ok := h.Labels[rule.key]; ok && r.countsFor(rule, h) {
			d[v] = all[v]
		}
	}
	return d
}

// Tenants choose keys and selectors, so what is remembered of them has a limit.
func TestWhatIsRememberedIsLimited(t *testing.T) {
	s := snapshot(host("h1", zone("a")))
	put(s, instance("old"), "h1")
	for i := range 100 {
		for _, key := range []string{zoneLabel, fmt.Sprint("key", i/10)} {
			vmi := instance("new", spread(func(c *corev1.TopologySpreadConstraint) {
				c.TopologyKey, c.WhenUnsatisfiable = key, corev1.ScheduleAnyway
				c.LabelSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint("app", i)}}
			}))
			placedOn(t, s, vmi)
			vmi.Namespace = fmt.Sprint("empty", i)
			placedOn(t, s, vmi)
			if len(s.topologies) > maxTopologies {
				t.Fatalf("%d topologies are remembered", len(s.topologies))
			}
			if n := len(s.topologies[key].tallies["default"]); n > maxTallies {
				t.Fatalf("%d counts of %s are remembered", n, key)
			}
		}
	}
	s.RemoveInstance("uid-old")
	for key, topology := range s.topologies {
		if len(topology.tallies) > 0 {
			t.Errorf("%s: counts of a namespace without instances are remembered", key)
		}
	}
}
