package nodes

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/stewardstest"
)

func node(w *stewardstest.World, name string) *corev1.Node {
	w.Helper()
	return stewardstest.Get[*corev1.Node](w, objects.Key{Name: name})
}

func ready(n *corev1.Node) corev1.ConditionStatus {
	return objects.NodeCondition(n, corev1.NodeReady).Status
}

func hasTaint(n *corev1.Node, key string) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key })
}

func TestDeadHostsAreMarked(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		watcher, err := New(w.Host("h1").Deps, w.Members)
		w.Check(err)
		w.Run(watcher.Run)
		// h2 has a Node, and is not among the live from the start.
		h2 := &corev1.Node{}
		h2.Name = "h2"
		objects.SetNodeCondition(h2, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, time.Now())
		w.Create(h2)
		time.Sleep(2 * time.Second)
		if got := ready(node(w, "h2")); got != corev1.ConditionTrue {
			w.Errorf("marked before the membership settled: %s", got)
		}
		w.Members.Set("h1", "h2")
		time.Sleep(time.Minute)
		if got := ready(node(w, "h2")); got != corev1.ConditionTrue {
			w.Errorf("a live host is marked: %s", got)
		}
		w.Members.Set("h1")
		time.Sleep(6 * time.Second)
		n := node(w, "h2")
		if ready(n) != corev1.ConditionUnknown || !hasTaint(n, corev1.TaintNodeUnreachable) || n.Labels[kubevirtv1.NodeSchedulable] != "false" {
			w.Errorf("not marked: %s %v %v", ready(n), n.Spec.Taints, n.Labels)
		}
		if n := w.CommitsDuring(3 * time.Hour); n != 0 {
			w.Errorf("%d transactions while it stays dead", n)
		}
	})
}
