package nodes

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/stewardstest"
	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
)

// onHost makes an instance that a claim gives to a host.
func onHost(w *stewardstest.World, name, host string, phase kubevirtv1.VirtualMachineInstancePhase) objects.Key {
	w.Helper()
	vmi := &kubevirtv1.VirtualMachineInstance{}
	vmi.Namespace, vmi.Name = "ns", name
	machine.SetPhase(vmi, phase, time.Now())
	machine.SetCondition(vmi, machine.NewCondition(kubevirtv1.VirtualMachineInstanceReady, phase == kubevirtv1.Running, "", ""), time.Now())
	w.Create(vmi)
	key := objects.KeyOf(vmi)
	last, err := claims.GetEpoch(w.Context(), w.Store, key, raftstore.ReadOptions{})
	w.Check(err)
	w.Commit(func(tx *objects.Tx) {
		claims.Place(tx, claims.Instance{Namespace: key.Namespace, Name: key.Name, UID: vmi.UID, Host: host}, last)
	})
	return key
}

// setNode stores whether the Node of a host is Ready.
func setNode(w *stewardstest.World, name string, ready corev1.ConditionStatus) {
	w.Helper()
	stewardstest.Edit(w, objects.Key{Name: name}, func(n *corev1.Node) {
		objects.SetNodeCondition(n, corev1.NodeCondition{Type: corev1.NodeReady, Status: ready}, time.Now())
	})
}

// runInstances starts the loop on h1, with the Nodes of h1 and h2.
func runInstances(w *stewardstest.World) {
	w.Helper()
	for _, name := range []string{"h1", "h2"} {
		node := &corev1.Node{}
		node.Name = name
		objects.SetNodeCondition(node, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, time.Now())
		w.Create(node)
		w.Commit(func(tx *objects.Tx) { claims.Publish(tx, claims.Capacity{Host: name}) })
	}
	loop, err := NewInstances(w.Host("h1").Deps)
	w.Check(err)
	w.Run(loop.Run)
}

func readiness(w *stewardstest.World, key objects.Key) kubevirtv1.VirtualMachineInstanceCondition {
	w.Helper()
	return *machine.Condition(stewardstest.Get[*kubevirtv1.VirtualMachineInstance](w, key), kubevirtv1.VirtualMachineInstanceReady)
}

// report does what a host does: it says that its guest runs.
func report(w *stewardstest.World, key objects.Key) {
	w.Helper()
	stewardstest.Edit(w, key, func(vmi *kubevirtv1.VirtualMachineInstance) {
		machine.SetCondition(vmi, machine.NewCondition(kubevirtv1.VirtualMachineInstanceReady, true, "", ""), time.Now())
	})
}

func TestInstancesOfADeadHostAreNotReady(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		runInstances(w)
		lost, starting := onHost(w, "lost", "h2", kubevirtv1.Running), onHost(w, "starting", "h2", kubevirtv1.Scheduled)
		safe, ended := onHost(w, "safe", "h1", kubevirtv1.Running), onHost(w, "ended", "h2", kubevirtv1.Succeeded)
		time.Sleep(time.Hour)
		if c := readiness(w, lost); c.Status != corev1.ConditionTrue {
			w.Fatalf("its host is alive: %+v", c)
		}
		before := w.Store.Commits()
		setNode(w, "h2", corev1.ConditionUnknown)
		time.Sleep(time.Hour)
		if n := w.Store.Commits() - before; n != 1+2 {
			w.Errorf("%d transactions for the Node and two instances", n)
		}
		for _, key := range []objects.Key{lost, starting} {
			if c := readiness(w, key); c.Status != corev1.ConditionFalse || c.Reason != machine.ReasonNodeUnresponsive || !strings.Contains(c.Message, "host h2") {
				w.Errorf("%s on a dead host: %+v", key, c)
			}
		}
		for _, key := range []objects.Key{safe, ended} {
			if c := readiness(w, key); c.Reason != "" {
				w.Errorf("%s: %+v", key, c)
			}
		}
		before = w.Store.Commits()
		setNode(w, "h2", corev1.ConditionTrue)
		time.Sleep(time.Hour)
		if n := w.Store.Commits() - before; n != 1+1 {
			w.Errorf("%d transactions for the Node and the instance that does not run", n)
		}
		if c := readiness(w, starting); c.Reason != kubevirtv1.GuestNotRunningReason {
			w.Errorf("its host is back: %+v", c)
		}
	})
}

// setHypervisor stores what a host says of its hypervisor, as it publishes it.
func setHypervisor(w *stewardstest.World, name string, ready corev1.ConditionStatus) {
	w.Helper()
	stewardstest.Edit(w, objects.Key{Name: name}, func(n *corev1.Node) {
		for _, kind := range []corev1.NodeConditionType{corev1.NodeReady, objects.NodeHypervisorReady} {
			objects.SetNodeCondition(n, corev1.NodeCondition{Type: kind, Status: ready}, time.Now())
		}
	})
}

// A host that boots and whose libvirtd does not come up is alive, and its guests are not: of
// them it is said that nobody knows, until the hypervisor answers. A short absence is not told.
func TestInstancesOfAHostWithoutHypervisorAreNotReady(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		runInstances(w)
		lost, starting, safe := onHost(w, "lost", "h2", kubevirtv1.Running), onHost(w, "starting", "h2", kubevirtv1.Scheduled), onHost(w, "safe", "h1", kubevirtv1.Running)
		time.Sleep(time.Hour)
		setHypervisor(w, "h2", corev1.ConditionFalse)
		time.Sleep(awayPatience / 2)
		setHypervisor(w, "h2", corev1.ConditionTrue)
		time.Sleep(time.Hour)
		if c := readiness(w, lost); c.Status != corev1.ConditionTrue {
			w.Fatalf("libvirtd was restarted: %+v", c)
		}
		setNode(w, "h2", corev1.ConditionUnknown)
		time.Sleep(time.Hour)
		setHypervisor(w, "h2", corev1.ConditionFalse)
		time.Sleep(time.Hour)
		for _, key := range []objects.Key{lost, starting} {
			if c := readiness(w, key); c.Reason != machine.ReasonNodeUnresponsive || !strings.Contains(c.Message, "the hypervisor of host h2") {
				w.Errorf("%s, whose host came back without its hypervisor: %+v", key, c)
			}
		}
		report(w, lost)
		before := w.Store.Commits()
		setHypervisor(w, "h2", corev1.ConditionTrue)
		time.Sleep(time.Hour)
		if c := readiness(w, lost); c.Status != corev1.ConditionTrue {
			w.Errorf("the host has reported it, and is contradicted: %+v", c)
		}
		if c := readiness(w, starting); c.Reason != kubevirtv1.GuestNotRunningReason || w.Store.Commits()-before != 1+1 {
			w.Errorf("the hypervisor is back: %+v, %d transactions", c, w.Store.Commits()-before)
		}
		setHypervisor(w, "h2", corev1.ConditionFalse)
		time.Sleep(time.Hour)
		if c := readiness(w, lost); c.Status != corev1.ConditionFalse || c.Reason != machine.ReasonNodeUnresponsive {
			w.Errorf("its hypervisor is away for an hour: %+v", c)
		}
		if c := readiness(w, safe); c.Reason != "" {
			w.Errorf("on another host: %+v", c)
		}
	})
}

// A host that returns reports its instances before or after its Node.
func TestAReturningHostIsNotContradicted(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		runInstances(w)
		key := onHost(w, "a", "h2", kubevirtv1.Running)
		time.Sleep(time.Hour)
		setNode(w, "h2", corev1.ConditionUnknown)
		time.Sleep(time.Hour)
		before := w.Store.Commits()
		report(w, key)
		setNode(w, "h2", corev1.ConditionTrue)
		time.Sleep(time.Hour)
		if n := w.Store.Commits() - before; n != 2 || readiness(w, key).Status != corev1.ConditionTrue {
			w.Errorf("%d transactions, %+v", n, readiness(w, key))
		}
	})
}

// Two loops that contradict each other for ever write at a bounded rate.
func TestAContradictionIsBounded(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		runInstances(w)
		key := onHost(w, "a", "h2", kubevirtv1.Running)
		setNode(w, "h2", corev1.ConditionUnknown)
		reports := 0
		const long = 10 * time.Minute
		for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(time.Second) {
			if readiness(w, key).Status != corev1.ConditionTrue {
				report(w, key)
				reports++
			}
		}
		if limit := int(long / patience); reports == 0 || reports > limit {
			w.Errorf("marked %d times in %s, want at most %d", reports, long, limit)
		}
	})
}
