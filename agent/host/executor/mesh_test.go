package executor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// silent is the store of a host that is cut off: it waits for a quorum as long as
// its caller does.
type silent struct{ objects.Store }

func (s silent) Get(ctx context.Context, key string, o raftstore.ReadOptions) (raftstore.Record, uint64, error) {
	if o.Consistency == raftstore.Local {
		return s.Store.Get(ctx, key, o)
	}
	<-ctx.Done()
	return raftstore.Record{}, 0, raftstore.ErrNoLeader
}

func (s silent) Commit(ctx context.Context, _ raftstore.Txn) (raftstore.TxnResult, error) {
	<-ctx.Done()
	return raftstore.TxnResult{}, raftstore.ErrNoLeader
}

// On a host that is cut off no worker is held for as long as that takes.
func TestNoWorkerWaitsForAQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		running, gone := w.running("a"), w.running("b")
		w.forget(gone)
		w.sync(gone)
		w.act(w.hv.Suspend(t.Context(), refOf(running)))
		w.executor.Store = silent{w.store}
		for _, key := range []objects.Key{objects.KeyOf(running), objects.KeyOf(gone)} {
			began := time.Now()
			if _, err := w.executor.Reconcile(t.Context(), key); err == nil {
				t.Errorf("%s: no error, so nobody tries again", key)
			}
			if took := time.Since(began); took > meshTimeout {
				t.Errorf("%s: a worker was held for %s", key, took)
			}
		}
	})
}
