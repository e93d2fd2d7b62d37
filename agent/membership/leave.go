package membership

import (
	"context"
	"fmt"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// retire takes this host's offer to run instances back, and then what else it
// has published. It is refused while instances are claimed for the host: what
// it offers is withdrawn before they are counted, so none can come in between.
func retire(ctx context.Context, store objects.Store, duties Duties, self removal) error {
	if err := duties.Pause(ctx); err != nil {
		return err
	}
	err := retirePaused(ctx, store, self)
	if err != nil {
		duties.Resume()
	}
	return err
}

func retirePaused(ctx context.Context, store objects.Store, self removal) error {
	if err := self.withdrawCapacity(ctx); err != nil {
		return err
	}
	held, err := claims.OnHost(ctx, store, self.host, raftstore.ReadOptions{})
	if err != nil {
		return fmt.Errorf("count the instances on %s: %w", self.host, err)
	}
	if n := len(held); n > 0 {
		return fault.New(fault.Conflict, "%d instances run on %s", n, self.host).About(self.host).WithRemedy("stop them first")
	}
	return self.forget(ctx)
}
