package nodes

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// leader is the second witness. It hears the hosts named.
type leader struct {
	hears atomic.Pointer[[]string]
	away  atomic.Bool // it does not answer
}

// Silent implements Witness.
func (l *leader) Silent(_ context.Context, host string) (bool, error) {
	hears := l.hears.Load()
	if l.away.Load() {
		return false, errors.New("no leader")
	}
	return hears == nil || !slices.Contains(*hears, host), nil
}

// TestHostThatTheLeaderHearsIsNotMarked: gossip is split, and both parts keep writing to
// the store. The node of a host that runs must not flap.
func TestHostThatTheLeaderHearsIsNotMarked(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		witness := &leader{}
		witness.hears.Store(&[]string{"h2"})
		watcher, err := New(w.Host("h1").Deps, w.Members, witness)
		w.Check(err)
		w.Run(watcher.Run)
		h2 := &corev1.Node{}
		h2.Name = "h2"
		objects.SetNodeCondition(h2, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, time.Now())
		w.Create(h2)
		if n := w.CommitsDuring(time.Hour); n != 0 || ready(node(w, "h2")) != corev1.ConditionTrue {
			w.Errorf("%d transactions, h2 is ready: %s", n, ready(node(w, "h2")))
		}
		// Nobody knows whether it is dead while no leader answers.
		witness.hears.Store(nil)
		witness.away.Store(true)
		if n := w.CommitsDuring(time.Hour); n != 0 || ready(node(w, "h2")) != corev1.ConditionTrue {
			w.Errorf("without a leader: %d transactions, h2 is ready: %s", n, ready(node(w, "h2")))
		}
		// The leader comes back, and the host is dead: the watcher's back-off has grown.
		witness.away.Store(false)
		time.Sleep(10 * time.Minute)
		if got := ready(node(w, "h2")); got != corev1.ConditionUnknown {
			w.Errorf("dead to both witnesses, and ready is %s", got)
		}
	})
}

func TestDeadHostsAreMarked(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		watcher, err := New(w.Host("h1").Deps, w.Members, &leader{})
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

// A host that has just come back must be missing for longer before it is marked again,
// so that one that comes and goes costs few writes. A host that stays away is marked.
func TestAHostThatComesAndGoesIsMarkedSeldom(t *testing.T) {
	t.Run("with a clock", func(t *testing.T) { comesAndGoes(t, 0) })
	t.Run("with a clock that was two hours ahead when it made its Node", func(t *testing.T) { comesAndGoes(t, 2*time.Hour) })
}

// comesAndGoes lets a host come and go for half an hour. Its clock was ahead when it made its
// Node, and is right since.
func comesAndGoes(t *testing.T, ahead time.Duration) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		watcher, err := New(w.Host("h1").Deps, w.Members, &leader{})
		w.Check(err)
		w.Run(watcher.Run)
		h2 := &corev1.Node{}
		h2.Name, h2.CreationTimestamp = "h2", metav1.NewTime(time.Now().Add(ahead))
		objects.SetNodeCondition(h2, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, time.Now())
		w.Create(h2)
		marks := 0
		for range 60 { // half an hour
			w.Members.Set("h1")
			time.Sleep(20 * time.Second)
			marked := ready(node(w, "h2")) == corev1.ConditionUnknown
			w.Members.Set("h1", "h2")
			time.Sleep(5 * time.Second)
			if marked {
				marks++
				stewardstest.Edit(w, objects.Key{Name: "h2"}, func(n *corev1.Node) {
					objects.SetNodeCondition(n, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, time.Now())
				})
			}
			time.Sleep(5 * time.Second)
		}
		if marks < 1 || marks > 4 {
			w.Errorf("marked %d times in half an hour", marks)
		}
		w.Members.Set("h1")
		time.Sleep(unsteadyPatience + settle)
		if got := ready(node(w, "h2")); got != corev1.ConditionUnknown {
			w.Errorf("a host that stays away is %s", got)
		}
	})
}
