package schedule

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// untouched is a state without hosts in quarantine.
type untouched struct{}

func (untouched) Get(string) (raftstore.Record, bool)        { return raftstore.Record{}, false }
func (untouched) Ascend(string, func(raftstore.Record) bool) {}

// recover writes what a recovery of the mesh from its present state writes first.
func (b *bench) recover(hosts ...string) {
	b.Helper()
	_, now, err := b.store.Get(b.Context(), "/nothing", raftstore.ReadOptions{})
	if now == 0 {
		b.Fatal(err)
	}
	if _, err := b.store.Commit(b.Context(), raftstore.Txn{RequestID: "recovery", Ops: claims.BeginTimeline(untouched{}, now, hosts)}); err != nil {
		b.Fatal(err)
	}
	time.Sleep(time.Second)
}

// TestMachinesOfBeforeWaitForQuarantine: after a recovery, a host that is not back may run
// any machine that existed before. None of them is placed until the last such host is
// back or removed; machines that are new are.
func TestMachinesOfBeforeWaitForQuarantine(t *testing.T) {
	run(t, func(b *bench) {
		b.create("waited") // there was no host for it
		b.commit(func(tx *objects.Tx) { tx.Create(machineOf("stopped")) })
		b.recover("h1", "h2")
		b.host("h1", 16*gib)
		b.commit(func(tx *objects.Tx) { tx.Create(machineOf("new")) })
		for _, name := range []string{"stopped", "new", "alone"} {
			b.create(name)
		}
		time.Sleep(time.Minute)
		b.expectHost("new", "h1")
		b.expectHost("alone", "h1")
		for _, name := range []string{"waited", "stopped"} {
			b.expectWaiting(name, "may still run on h1, h2")
		}
		b.end("h1")
		for _, name := range []string{"waited", "stopped"} {
			b.expectWaiting(name, "may still run on h2:")
		}
		b.end("h2")
		for _, name := range []string{"waited", "stopped"} {
			b.expectHost(name, "h1")
		}
	})
}

// end ends the quarantine of a host.
func (b *bench) end(host string) {
	b.Helper()
	list, err := claims.ListQuarantine(b.Context(), b.store, raftstore.ReadOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for _, q := range list {
		if q.Host == host {
			b.commit(func(tx *objects.Tx) { claims.EndQuarantine(tx, q) })
		}
	}
	time.Sleep(2 * time.Second)
}

func machineOf(name string) *kubevirtv1.VirtualMachine {
	return &kubevirtv1.VirtualMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
}
