package schedule

import (
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/schedule/place"
)

var db = map[string]string{"app": "db"}

// labelled is an instance without rules of its own.
func labelled(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Labels = db }

// apart keeps an instance away from others of its label.
func apart(vmi *kubevirtv1.VirtualMachineInstance) {
	vmi.Labels = db
	vmi.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
		TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: db},
	}}}}
}

// evenly spreads instances of a label over the hosts.
func evenly(vmi *kubevirtv1.VirtualMachineInstance) {
	vmi.Labels = db
	vmi.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
		LabelSelector: &metav1.LabelSelector{MatchLabels: db},
	}}
}

// sideBySide creates instances at once, on a mesh whose hosts are of different
// size, so that all stewards like the same one best; it returns which are where.
func (b *bench) sideBySide(kinds ...func(*kubevirtv1.VirtualMachineInstance)) map[string][]string {
	b.Helper()
	b.offers.set(func() { b.offers.delay = 50 * time.Millisecond })
	b.commit(func(tx *objects.Tx) {
		for i, kind := range kinds {
			tx.Create(instance(fmt.Sprint("db", i), kind))
		}
	})
	time.Sleep(10 * time.Minute)
	where := map[string][]string{}
	for i := range kinds {
		name := fmt.Sprint("db", i)
		host := b.vmi(name).Status.NodeName
		where[host] = append(where[host], name)
	}
	return where
}

var fourStewards = []string{"h1", "h2", "h3", "h4"}

func (b *bench) hostsOfDifferentSize() {
	for i, h := range fourStewards {
		b.host(h, int64(64*(i+1))*gib)
	}
}

func TestStewardsKeepInstancesApart(t *testing.T) {
	run(t, func(b *bench) {
		b.hostsOfDifferentSize()
		where := b.sideBySide(apart, apart, apart, apart)
		for host, names := range where {
			if host == "" || len(names) != 1 {
				b.Errorf("on %q: %v, want one on each host", host, names)
			}
		}
	}, fourStewards...)
}

// An instance without rules of its own must not come to one that keeps it away,
// whoever of them is placed first.
func TestStewardsKeepOthersAway(t *testing.T) {
	for first := range 8 {
		run(t, func(b *bench) {
			b.hostsOfDifferentSize()
			kinds := []func(*kubevirtv1.VirtualMachineInstance){labelled, labelled, labelled, labelled, labelled, labelled, labelled, labelled}
			kinds[first] = apart
			for host, names := range b.sideBySide(kinds...) {
				for _, name := range names {
					if name == fmt.Sprint("db", first) && host != "" && len(names) != 1 {
						b.Errorf("%s shares %s with %v", name, host, names)
					}
				}
			}
		}, fourStewards...)
	}
}

func TestStewardsSpreadEvenly(t *testing.T) {
	run(t, func(b *bench) {
		b.hostsOfDifferentSize()
		where := b.sideBySide(evenly, evenly, evenly, evenly, evenly, evenly, evenly, evenly)
		for _, h := range fourStewards {
			if len(where[h]) != 2 {
				b.Errorf("instances by host: %v, want two on each", where)
				break
			}
		}
	}, fourStewards...)
}

// What a steward takes back must not be what another one has placed.
func TestForgettingLeavesClaimsAlone(t *testing.T) {
	run(t, func(b *bench) {
		view := b.views[0]
		b.host("h1", 4*gib)
		b.host("h2", 4*gib)
		vmi := instance("a", apart)
		vmi.UID = "a"
		request, err := place.NewRequest(vmi, place.DefaultPolicy())
		if err != nil {
			b.Fatal(err)
		}
		choice, err := view.Decide(b.Context(), request)
		if err != nil {
			b.Fatal(err)
		}
		// Another instance of the label is kept away by the decision already.
		second := instance("b", labelled)
		second.UID = "b"
		next, err := place.NewRequest(second, place.DefaultPolicy())
		if err != nil {
			b.Fatal(err)
		}
		if other, err := view.Decide(b.Context(), next); err != nil || other.Host == choice.Host {
			b.Errorf("%s was sent to %s, too (%v)", second.Name, other.Host, err)
		}
		view.Forget("b")
		in := claims.Instance{Namespace: "ns", Name: "a", UID: "a", Host: "h2", Resources: request.Resources}
		b.commit(func(tx *objects.Tx) { claims.Place(tx, in, claims.Epoch{}) })
		view.Forget("a")
		if _, err := view.Decide(b.Context(), request); !errors.Is(err, errClaimed) {
			b.Errorf("decided anew in spite of the claim: %v", err)
		}
		view.Forget("a")
		big := instance("c")
		big.UID = "c"
		want, err := place.NewRequest(big, place.DefaultPolicy())
		if err != nil {
			b.Fatal(err)
		}
		want.Resources.MemoryBytes = 4 * gib
		if choice, err := view.Decide(b.Context(), want); err != nil || choice.Host != "h1" {
			b.Errorf("h2 counts as empty: sent to %s (%v)", choice.Host, err)
		}
	})
}
