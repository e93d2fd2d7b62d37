package operation

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/stewardstest"
	"virtmesh/raftstore"
)

// severed is the store of a host that can be cut off: nothing answers then. What is written
// before is answered late, as on a host with too little CPU time.
type severed struct {
	objects.Store
	cut  *atomic.Bool
	late time.Duration
}

// Get implements objects.Store.
func (s severed) Get(ctx context.Context, key string, opts raftstore.ReadOptions) (raftstore.Record, uint64, error) {
	if s.cut.Load() && opts.Consistency != raftstore.Local {
		<-ctx.Done()
		return raftstore.Record{}, 0, ctx.Err()
	}
	return s.Store.Get(ctx, key, opts)
}

// Commit implements objects.Store.
func (s severed) Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error) {
	if s.cut.Load() {
		<-ctx.Done()
		return raftstore.TxnResult{}, ctx.Err()
	}
	result, err := s.Store.Commit(ctx, t)
	time.Sleep(s.late)
	return result, err
}

// An owner that cannot renew its lease ends its steps before another host takes over,
// whenever it is cut off, and whatever the clocks of the hosts show.
func TestAnOwnerThatIsCutOffEndsInTime(t *testing.T) {
	for _, late := range []time.Duration{0, 4 * time.Second} {
		for after := range 12 {
			t.Run(fmt.Sprintf("after %d s, answers are late by %s", after, late), func(t *testing.T) {
				stewardstest.Run(t, func(w *stewardstest.World) {
					cuts := map[string]*atomic.Bool{}
					for _, host := range []string{"h1", "h2", "h3"} {
						cuts[host] = &atomic.Bool{}
						w.Host(host).Deps.Store = severed{w.Host(host).Deps.Store, cuts[host], late}
					}
					w.Host("h1").Deps.Clock = func() time.Time { return time.Now().Add(time.Hour) }
					var s site
					slow := func(ctx context.Context, _, _ string, _ func(done, total int64)) error {
						select {
						case <-time.After(40 * time.Second):
						case <-ctx.Done():
						}
						return ctx.Err()
					}
					startHosts(w, &s, []string{"one"}, slow, nil)
					time.Sleep(300 * time.Millisecond)
					owner := get(w).Status.Owner.Host
					w.Members.Set(slices.DeleteFunc([]string{"h1", "h2", "h3"}, func(host string) bool { return host == owner })...)
					time.Sleep(time.Duration(after) * time.Second)
					cuts[owner].Store(true)
					time.Sleep(2 * time.Minute)
					op := get(w)
					if op.Status.Phase != meshv1alpha1.OperationSucceeded || op.Status.Owner.Epoch != 2 || s.mostAtOnce() != 1 {
						t.Errorf("%+v, owner %+v, %d at once of %v", op.Status, op.Status.Owner, s.mostAtOnce(), s.calls())
					}
				})
			})
		}
	}
}
