package stewards

import (
	"context"
	"fmt"
	"sync/atomic"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// UndeclaredWriteError reports that a control loop tried to write something
// that it does not declare as an output. The transaction was not sent.
type UndeclaredWriteError struct {
	// Steward is the name of the control loop.
	Steward string
	// StoreKey is the record that the loop wanted to change.
	StoreKey string
	// Reason describes the write that is not declared.
	Reason string
}

// Error implements error.
func (e *UndeclaredWriteError) Error() string {
	return fmt.Sprintf("%s writes %s, which it does not declare: %s; add it to the outputs of the steward", e.Steward, e.StoreKey, e.Reason)
}

// Guard returns the store that control loops commit to. It refuses a
// transaction that is committed with the context of a reconciliation and writes
// outside the outputs that the loop declares. It remembers the revisions of the
// others, so that the engine recognizes the loop's own writes when the watch
// reports them. Reads, and transactions with another context, pass unchanged.
func Guard(store objects.Store) objects.Store {
	if _, ok := store.(guarded); ok {
		return store
	}
	return guarded{store}
}

type guarded struct{ objects.Store }

var _ objects.Store = guarded{}

// Commit implements objects.Store.
func (g guarded) Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error) {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		return g.Store.Commit(ctx, t)
	}
	if err := a.checkWrites(ctx, g.Store, t); err != nil {
		return raftstore.TxnResult{}, err
	}
	res, err := g.Store.Commit(ctx, t)
	if err == nil && len(t.Ops) > 0 {
		a.wrote.Store(true)
		a.loop.wakes.written.noteWrites(a.key, a.number, res.OpRevisions)
	}
	return res, err
}

// attempt is one call of a reconciler. It travels in the context.
type attempt struct {
	loop   *Controller
	key    Key
	number uint64
	wrote  atomic.Bool
}

type attemptKey struct{}

func (a *attempt) in(ctx context.Context) context.Context {
	return context.WithValue(objects.WithWriter(ctx, a.loop.cfg.Name), attemptKey{}, a)
}

// checkWrites refuses a transaction that writes outside the declared outputs.
func (a *attempt) checkWrites(ctx context.Context, store objects.Store, t raftstore.Txn) error {
	if len(a.loop.cfg.Outputs) == 0 {
		return nil
	}
	for _, op := range t.Ops {
		reason, err := judgeOp(ctx, store, a.loop.cfg.Outputs, t, op)
		if err != nil {
			return err
		}
		if reason == "" {
			continue
		}
		violation := &UndeclaredWriteError{Steward: a.loop.cfg.Name, StoreKey: op.Key, Reason: reason}
		a.loop.metrics.undeclared.Inc()
		a.loop.log.Error("a control loop tried to write something that it does not declare", "key", a.key.String(), "err", violation)
		if a.loop.deps.Undeclared != nil {
			a.loop.deps.Undeclared(violation)
		}
		return violation
	}
	return nil
}
