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
	placementHosts  = 1000
	placementOld    = 5000
	placementLength = 2 * time.Second
	// placementBatch is how many new instances the hosts hold before they go
	// again, so that the mesh stays about as full as it was.
	placementBatch = 2000
)

// wishes are kinds of instances whose placement costs differently.
var wishes = []struct {
	name   string
	edit   func(*kubevirtv1.VirtualMachineInstanceSpec)
	budget *bound
}{
	{"plain", func(*kubevirtv1.VirtualMachineInstanceSpec) {}, atLeast(50000)},
	{"selector", func(s *kubevirtv1.VirtualMachineInstanceSpec) { s.NodeSelector = map[string]string{"disk": "ssd"} }, atLeast(50000)},
	{"antiaffinity", keepApart, atLeast(15000)},
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

// runPlacement measures decisions on a mesh of 1,000 hosts, and then placements on one
// of 500.
func runPlacement(ctx context.Context, o *options, r *report) error {
	for _, w := range wishes {
		rate, err := placements(ctx, w.edit)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		r.add(figure{Name: "placement_1000_hosts_" + w.name, Value: rate, Unit: "placements/s", Budget: w.budget})
	}
	return runPlacing(ctx, o, r)
}

// placements returns how many instances were placed in a second.
func placements(ctx context.Context, edit func(*kubevirtv1.VirtualMachineInstanceSpec)) (float64, error) {
	snapshot, policy := busyMesh(), place.DefaultPolicy()
	var spent time.Duration
	n := 0
	for spent < placementLength && ctx.Err() == nil {
		began := time.Now()
		for i := range placementBatch {
			vmi := smallInstance(fmt.Sprint("new", i), i)
			edit(&vmi.Spec)
			if err := placeInstance(snapshot, vmi, policy); err != nil {
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

func placeInstance(s *place.Snapshot, vmi *kubevirtv1.VirtualMachineInstance, policy place.Policy) error {
	request, err := place.NewRequest(vmi, policy)
	if err != nil {
		return err
	}
	host, err := s.Place(request)
	if err != nil {
		return err
	}
	s.SetInstance(place.Instance{
		UID: request.UID, Namespace: request.Namespace, Labels: request.Labels,
		Hosts: []string{host}, Resources: request.Resources, Affinity: vmi.Spec.Affinity,
	})
	return nil
}

// busyMesh returns hosts of 128 processors and 1 TiB in five zones, with what
// they run.
func busyMesh() *place.Snapshot {
	s := place.NewSnapshot()
	for i := range placementHosts {
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
	for i := range placementOld {
		vmi := smallInstance(fmt.Sprint("old", i), i)
		s.SetInstance(place.Instance{
			UID: string(vmi.UID), Namespace: vmi.Namespace, Labels: vmi.Labels,
			Hosts: []string{hostName(i % placementHosts)}, Resources: policy.Resources(&vmi.Spec),
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
