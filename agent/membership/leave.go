package membership

import (
	"context"
	"fmt"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// retireHost withdraws this host's capacity and then everything else that the host has
// published. It fails while instances are claimed for the host. It withdraws the
// capacity before it counts the instances, so no new instance can be placed on the host
// meanwhile.
func retireHost(ctx context.Context, store objects.Store, duties Duties, self removal) error {
	if err := duties.Pause(ctx); err != nil {
		return err
	}
	err := withdrawHost(ctx, store, self)
	if err != nil {
		duties.Resume()
	}
	return err
}

func withdrawHost(ctx context.Context, store objects.Store, self removal) error {
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
	_, quarantined, err := self.quarantine(ctx)
	if err != nil {
		return err
	}
	if quarantined {
		return fault.New(fault.Conflict, "the mesh was recovered, and %s may still run instances that it does not know", self.host).
			About(self.host).WithRemedy("wait until 'virtmesh status' does not name the host any more")
	}
	return self.forgetHost(ctx)
}
