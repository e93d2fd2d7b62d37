package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/stewards/schedule/place"
	machine "virtmesh/agent/vmi"
)

const (
	placementLength = 2 * time.Second
	// placementBatch is how many new instances the hosts hold before they go
	// again, so that the mesh stays about as full as it was.
	placementBatch = 2000
)

// wishes are kinds of instances whose placement costs differently, and the hosts to choose
// from.
var wishes = []struct {
	name   string
	hosts  int
	edit   func(*kubevirtv1.VirtualMachineInstanceSpec)
	budget *bound
}{
	{"plain", 1000, func(*kubevirtv1.VirtualMachineInstanceSpec) {}, atLeast(50000)},
	{"selector", 1000, selectSSD, atLeast(50000)},
	{"antiaffinity", 1000, keepApart, atLeast(15000)},
	{"constraints", 5000, constrain, atLeast(5000)},
}

// placementOld is how many instances run on a host of a busy mesh.
const placementOld = 5

// selectSSD lets an instance run on every second host.
func selectSSD(s *kubevirtv1.VirtualMachineInstanceSpec) {
	s.NodeSelector = map[string]string{"disk": "ssd"}
}

// constrain makes use of all constraints at once.
func constrain(s *kubevirtv1.VirtualMachineInstanceSpec) {
	selectSSD(s)
	keepApart(s)
	web := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	s.Affinity.NodeAffinity = &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpExists}},
		}}},
		PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 10, Preference: corev1.NodeSelectorTerm{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{"ssd"}}},
		}}},
	}
	s.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: web,
	}}
	s.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}
}

// keepApart lets no two instances of an application share a host.
func keepApart(s *kubevirtv1.VirtualMachineInstanceSpec) {
	s.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			TopologyKey:   corev1.LabelHostname,
		}},
	}}
}

// runPlacement measures decisions on meshes of 1,000 and 5,000 hosts, and then placements on one
// of 500.
func runPlacement(ctx context.Context, o *options, r *report) error {
	for _, w := range wishes {
		rate, err := placements(ctx, w.hosts, w.edit)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		r.add(figure{Name: fmt.Sprintf("placement_%d_hosts_%s", w.hosts, w.name), Value: rate, Unit: "placements/s", Budget: w.budget})
	}
	return runPlacing(ctx, o, r)
}

// placements returns how many instances were placed in a second.
func placements(ctx context.Context, hosts int, edit func(*kubevirtv1.VirtualMachineInstanceSpec)) (float64, error) {
	snapshot, policy := busyMesh(hosts, placementOld*hosts), place.DefaultPolicy()
	var spent time.Duration
	n := 0
	for spent < placementLength && ctx.Err() == nil {
		began := time.Now()
		for i := range placementBatch {
			vmi := smallInstance(fmt.Sprint("new", i), i)
			edit(&vmi.Spec)
			if _, err := placeOn(snapshot, vmi, policy); err != nil {
				return 0, err
			}
		}
		spent += time.Since(began)
		n += placementBatch
		for i := range placementBatch {
			snapshot.RemoveInstance(fmt.Sprint("uid-new", i))
		}
	}
	return float64(n) / spent.Seconds(), ctx.Err()
}

// placeOn chooses a host for an instance, and records the outcome.
func placeOn(s *place.Snapshot, vmi *kubevirtv1.VirtualMachineInstance, policy place.Policy) (host string, err error) {
	request, err := place.NewRequest(vmi, policy)
	if err != nil {
		return "", err
	}
	if host, err = s.Place(request); err != nil {
		return "", err
	}
	s.SetInstance(place.Instance{
		UID: request.UID, Namespace: request.Namespace, Labels: request.Labels,
		Hosts: []string{host}, Resources: request.Resources, Affinity: vmi.Spec.Affinity,
	})
	return host, nil
}

// busyMesh returns hosts of 128 processors and 1 TiB in five zones, with the old
// instances that they run.
func busyMesh(hosts, old int) *place.Snapshot {
	s := place.NewSnapshot()
	for i := range hosts {
		s.SetHost(place.Host{
			Name: hostName(i), KVM: true,
			Labels: map[string]string{
				corev1.LabelTopologyZone: fmt.Sprint("zone", i%5),
				"disk":                   []string{"ssd", "hdd"}[i%2],
			},
			Allocatable: machine.Resources{CPUMilli: 128_000, MemoryBytes: 1 << 40},
		})
	}
	policy := place.DefaultPolicy()
	for i := range old {
		vmi := smallInstance(fmt.Sprint("old", i), i)
		s.SetInstance(place.Instance{
			UID: string(vmi.UID), Namespace: vmi.Namespace, Labels: vmi.Labels,
			Hosts: []string{hostName(i % hosts)}, Resources: policy.Resources(&vmi.Spec),
		})
	}
	return s
}

func hostName(i int) string { return fmt.Sprintf("host%04d", i) }

// smallInstance returns an instance of one virtual CPU and 512 MiB, one of a
// hundred namespaces'.
func smallInstance(name string, i int) *kubevirtv1.VirtualMachineInstance {
	guest := resource.MustParse("512Mi")
	return &kubevirtv1.VirtualMachineInstance{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: fmt.Sprint("ns", i%100), UID: types.UID("uid-" + name),
			Labels: map[string]string{"app": "web"},
		},
		Spec: kubevirtv1.VirtualMachineInstanceSpec{
			Domain: kubevirtv1.DomainSpec{Memory: &kubevirtv1.Memory{Guest: &guest}},
		},
	}
}
