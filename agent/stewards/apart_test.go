package stewards_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/raftstore/raftstoretest"
)

// Machines that must be apart are started at once, group after group, by the
// loops of three hosts on three real replicas.
func TestMachinesStayApart(t *testing.T) {
	cluster := raftstoretest.NewCluster(t, 3, raftstoretest.WithConstraints(claims.Rules()...))
	hosts, _, _ := startMesh(t, func(host string) objects.Store { return objects.FromRaft(cluster.Node(host), nil) })
	const groups = 8
	var tx objects.Tx
	for g := range groups {
		labels := map[string]string{"group": fmt.Sprint(g)}
		for i := range 3 {
			vm := alwaysOn(fmt.Sprintf("g%d-%d", g, i))
			vm.Spec.Template.ObjectMeta.Labels = labels
			vm.Spec.Template.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
					TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: labels},
				}},
			}}
			tx.Create(vm)
		}
	}
	if _, err := tx.Commit(t.Context(), hosts[0].store); err != nil {
		t.Fatal(err)
	}
	wait(t, "running", func() bool { return running(t, hosts[0].store) == 3*groups })
	where := map[string]string{}
	for _, vmi := range list[*kubevirtv1.VirtualMachineInstance](t, hosts[0].store) {
		place := vmi.Labels["group"] + " on " + vmi.Status.NodeName
		if other, taken := where[place]; taken {
			t.Errorf("%s and %s of group %s", other, vmi.Name, place)
		}
		where[place] = vmi.Name
	}
	for _, h := range hosts {
		h.stop()
	}
}
