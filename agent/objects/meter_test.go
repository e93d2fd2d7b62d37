package objects_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"virtmesh/agent/objects"
	"virtmesh/raftstore/raftstoretest"
)

// The metrics tell who wrote what, and only what was committed counts as written.
func TestWritesAreCountedByWriterAndKind(t *testing.T) {
	registry := prometheus.NewRegistry()
	meter, err := objects.NewMeter(registry)
	if err != nil {
		t.Fatal(err)
	}
	store := objects.FromRaft(meter.Raft(raftstoretest.New(t), "api"), nil)
	vmi := newVMI("a")
	commit(t, store, func(tx *objects.Tx) { tx.Create(vmi) })
	var tx objects.Tx
	tx.Put("/claims/host/h1/x", []byte("{}"))
	tx.Put("/mesh/ca", []byte("{}"))
	tx.Put("/registry/example.com/things/a", []byte("{}"))
	if _, err := tx.Commit(objects.WithWriter(t.Context(), "placement"), store); err != nil {
		t.Fatal(err)
	}
	var again objects.Tx
	again.Create(newVMI("a"))
	if _, err := again.Commit(t.Context(), store); err == nil {
		t.Fatal("created twice")
	}
	want := `
# HELP virtmesh_transactions_total Transactions requested on this host, by writer and result.
# TYPE virtmesh_transactions_total counter
virtmesh_transactions_total{result="conflict",writer="api"} 1
virtmesh_transactions_total{result="ok",writer="api"} 1
virtmesh_transactions_total{result="ok",writer="placement"} 1
# HELP virtmesh_writes_total Records written by committed transactions of this host, by writer and kind.
# TYPE virtmesh_writes_total counter
virtmesh_writes_total{kind="VirtualMachineInstance",writer="api"} 1
virtmesh_writes_total{kind="claims/host",writer="placement"} 1
virtmesh_writes_total{kind="mesh/ca",writer="placement"} 1
virtmesh_writes_total{kind="other",writer="placement"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "virtmesh_writes_total", "virtmesh_transactions_total"); err != nil {
		t.Error(err)
	}
	var none *objects.Meter
	if raft := raftstoretest.New(t); none.Raft(raft, "api") != objects.Raft(raft) {
		t.Error("without a meter the store is another one")
	}
}
