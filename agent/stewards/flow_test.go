// Package stewards_test lets the control loops meet through a replicated
// store, as they do in a mesh: every host runs all of them, and a stand-in for
// the executor.
package stewards_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/schedule"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

var (
	_ schedule.Facts   = facts{}
	_ stewards.Members = members{}
)

func alwaysOn(name string) *kubevirtv1.VirtualMachine {
	always := kubevirtv1.RunStrategyAlways
	guest := resource.MustParse("1Gi")
	v := &kubevirtv1.VirtualMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	v.Spec.RunStrategy = &always
	v.Spec.Template = &kubevirtv1.VirtualMachineInstanceTemplateSpec{}
	v.Spec.Template.Spec.Domain.Memory = &kubevirtv1.Memory{Guest: &guest}
	return v
}

// wait polls until ok; in a bubble the time is fake.
func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 6000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s: not after a minute", what)
}

func list[T objects.Object](t testing.TB, s objects.Store) []T {
	t.Helper()
	out, _, err := objects.List[T](t.Context(), s, "", raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func running(t testing.TB, s objects.Store) (n int) {
	t.Helper()
	for _, v := range list[*kubevirtv1.VirtualMachine](t, s) {
		if v.Status.PrintableStatus == kubevirtv1.VirtualMachineStatusRunning && v.Status.Ready {
			n++
		}
	}
	return n
}

// startMesh starts the loops of three hosts, each on the store that storeOf
// gives it.
func startMesh(t testing.TB, storeOf func(host string) objects.Store) (hosts []*host, m *membership, commits *atomic.Int64) {
	t.Helper()
	commits = new(atomic.Int64)
	m = &membership{live: map[string]bool{"host1": true, "host2": true, "host3": true}}
	for _, name := range []string{"host1", "host2", "host3"} {
		hosts = append(hosts, startHost(t, name, counted{storeOf(name), commits}, m))
	}
	wait(t, "nodes", func() bool { return len(list[*corev1.Node](t, hosts[0].store)) == 3 })
	return hosts, m, commits
}

func create(t testing.TB, s objects.Store, names ...string) {
	t.Helper()
	for _, name := range names {
		var tx objects.Tx
		tx.Create(alwaysOn(name))
		if _, err := tx.Commit(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
}

// A machine is up after four transactions: the user's, the instance, the claim
// and the start. One more tells its status.
func TestTransactionsPerMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := objectstest.New(claims.Rules()...)
		hosts, _, commits := startMesh(t, func(string) objects.Store { return shared })
		create(t, hosts[0].store, "warm")
		wait(t, "first running", func() bool { return running(t, hosts[0].store) == 1 })
		before := commits.Load()
		create(t, hosts[1].store, "vm")
		wait(t, "running", func() bool { return running(t, hosts[0].store) == 2 })
		time.Sleep(10 * time.Second)
		if n := commits.Load() - before; n != 5 {
			t.Errorf("%d transactions, want 5", n)
		}
		for _, h := range hosts {
			h.stop()
		}
	})
}

// The loops of three hosts on three real replicas.
func TestMachinesComeAndGo(t *testing.T) {
	cluster := raftstoretest.NewCluster(t, 3, raftstoretest.WithConstraints(claims.Rules()...))
	hosts, m, _ := startMesh(t, func(host string) objects.Store { return objects.FromRaft(cluster.Node(host), nil) })
	store := hosts[0].store
	const n = 30
	var names []string
	for i := range n {
		names = append(names, fmt.Sprint("vm", i))
	}
	create(t, store, names...)
	wait(t, "running", func() bool { return running(t, store) == n })
	perHost := map[string]int{}
	for _, vmi := range list[*kubevirtv1.VirtualMachineInstance](t, store) {
		perHost[vmi.Status.NodeName]++
	}
	for _, h := range hosts {
		if perHost[h.name] < n/5 {
			t.Errorf("instances by host: %v, want them spread", perHost)
		}
	}
	// One host's loops end; the others take its machines over.
	hosts[2].stop()
	m.kill("host3")
	create(t, store, "late1", "late2", "late3", "late4", "late5", "late6")
	wait(t, "running with two hosts", func() bool { return running(t, store) == n+6 })
	// The instances of the lost host are not this test's concern: only what
	// runs elsewhere is deleted.
	var doomed int
	for _, vmi := range list[*kubevirtv1.VirtualMachineInstance](t, store) {
		if vmi.Status.NodeName == "host3" {
			continue
		}
		doomed++
		v, err := objects.Get[*kubevirtv1.VirtualMachine](t.Context(), store, objects.KeyOf(vmi), raftstore.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var tx objects.Tx
		tx.Delete(v, objects.DeleteOptions{Propagation: metav1.DeletePropagationForeground})
		if _, err := tx.Commit(t.Context(), store); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, "deleted", func() bool { return len(list[*kubevirtv1.VirtualMachine](t, store)) == n+6-doomed })
	left := 0
	if _, err := objects.ListRecords(t.Context(), store, claims.Prefix, raftstore.ReadOptions{}, func(rec raftstore.Record) error {
		if strings.HasPrefix(rec.Key, "/claims/vmi/") {
			left++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if left != n+6-doomed {
		t.Errorf("%d claims left of %d machines", left, n+6-doomed)
	}
	hosts[0].stop()
	hosts[1].stop()
}

// BenchmarkCreateToRunning measures what the control loops add to the start of
// one machine, on three replicas, with a guest that starts in no time.
func BenchmarkCreateToRunning(b *testing.B) {
	cluster := raftstoretest.NewCluster(b, 3, raftstoretest.WithConstraints(claims.Rules()...))
	hosts, _, _ := startMesh(b, func(host string) objects.Store { return objects.FromRaft(cluster.Node(host), nil) })
	store := hosts[0].store
	i := 0
	for b.Loop() {
		name := fmt.Sprint("vm", i)
		i++
		w, err := store.Watch(b.Context(), raftstore.WatchRequest{Prefix: "/registry/kubevirt.io/virtualmachineinstances/ns/" + name})
		if err != nil {
			b.Fatal(err)
		}
		create(b, store, name)
		for ev := range w.Events() {
			vmi, err := objects.Decode[*kubevirtv1.VirtualMachineInstance](ev.Record)
			if err != nil {
				b.Fatal(err)
			}
			if vmi.Status.Phase == kubevirtv1.Running {
				break
			}
		}
		w.Stop()
	}
	b.StopTimer()
	for _, h := range hosts {
		h.stop()
	}
}
