package objects_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// What has arrived while a watch opened something is opened together, in its order: a host that does
// not hold the key would ask for each by itself.
func TestAWatchOpensTogetherWhatHasArrived(t *testing.T) {
	raft := raftstoretest.New(t)
	sealer := &objectstest.Sealer{}
	writer := objects.FromRaft(raft, sealer)
	var opened atomic.Int64
	began, goOn := make(chan struct{}), make(chan struct{})
	reader := objects.FromRaft(raft, &objectstest.Sealer{Fails: func() error {
		if opened.Add(1) == 1 {
			close(began)
			<-goOn
		}
		return nil
	}})
	w, err := reader.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/registry/"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	const written = 40
	put := func(i int) {
		t.Helper()
		if _, err := writer.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: fmt.Sprintf("/registry/%02d", i), Value: fmt.Append(nil, "value ", i)}}}); err != nil {
			t.Fatal(err)
		}
	}
	put(0)
	<-began
	for i := range written - 1 {
		put(i + 1)
	}
	if _, err := raft.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: "/registry/07", Delete: true}}}); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	for i := range written {
		if ev := <-w.Events(); string(ev.Record.Value) != fmt.Sprint("value ", i) {
			t.Fatalf("event %d is of %q", i, ev.Record.Value)
		}
	}
	if ev := <-w.Events(); ev.Type != raftstore.Delete || ev.Prev == nil || string(ev.Prev.Value) != "value 7" {
		t.Errorf("the deletion is %v of %+v", ev.Type, ev.Prev)
	}
	if n := opened.Load(); n > 8 {
		t.Errorf("%d events were opened in %d calls", written+1, n)
	}
}
