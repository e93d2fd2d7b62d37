package membership

import (
	"context"
	"errors"
	"fmt"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/admin"
	"virtmesh/raftstore"
)

// retireHost withdraws this host's capacity, lets it hand over what the mesh needs of it, and
// withdraws everything else that the host has published. It fails while instances are claimed
// for the host. It withdraws the capacity before it counts the instances, so no new instance
// can be placed on the host meanwhile. If it fails, the host goes on as before.
func retireHost(ctx context.Context, store objects.Store, duties Duties, self removal, handOver func(context.Context) error) error {
	pausing, cancel := context.WithTimeout(ctx, admin.Patience)
	defer cancel()
	if err := duties.Pause(pausing); err != nil {
		return err
	}
	err := withdrawHost(pausing, store, self)
	if err == nil {
		err = handOver(ctx)
	}
	if err == nil {
		forgetting, cancel := context.WithTimeout(ctx, admin.Patience)
		defer cancel()
		err = self.forgetHost(forgetting)
	}
	if err != nil {
		duties.Resume()
	}
	return err
}

// withdrawHost withdraws the host's capacity, and fails if the host has instances.
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
	return nil
}

// Leave implements admin.Mesh. It refuses while guests run on this host, because no
// host would manage them afterwards. It may be repeated after a failure.
//
// The host's record goes last: as long as there is one, this is a host of the mesh like any
// other, whatever ends in between. Before that it hands over leadership, vote and key, since
// nobody believes what a host signs that has no record, see raftstore.Store.Resign.
func (a administration) Leave(ctx context.Context) error {
	if err := retireHost(ctx, a.store, a.duties, a.newRemoval(a.config.Name), a.handOver); err != nil {
		return err
	}
	removing, cancel := context.WithTimeout(ctx, admin.Patience)
	defer cancel()
	if err := identity.NewHosts(a.records).Remove(removing, a.config.Name); err != nil && !errors.Is(err, fault.NoHost) {
		return fmt.Errorf("remove the record of this host: %w", err)
	}
	if err := a.Member.store.Leave(ctx); err != nil {
		return fmt.Errorf("leave the replicated store: %w", err)
	}
	if err := a.gossip.Leave(ctx); err != nil {
		a.log.Warn("not every host was told that this host leaves", "err", err)
	}
	a.leftOnce.Do(func() { close(a.left) })
	return nil
}

// handOver hands over leadership, vote and the key of the mesh's CA.
func (m *Member) handOver(ctx context.Context) error {
	resigning, cancel := context.WithTimeout(ctx, handOverPatience)
	defer cancel()
	err := m.store.Resign(resigning)
	if errors.Is(err, raftstore.ErrMayNotVote) {
		return fault.New(fault.Conflict, "%s is the only host that may vote, and has nobody to hand its vote over to: %w", m.config.Name, err).About(m.config.Name).
			WithRemedy("let another host vote first: 'kubectl edit meshconfig mesh', spec.voters")
	}
	if err != nil {
		return fmt.Errorf("hand over what this host does for the replicated store: %w", err)
	}
	m.handOverList(ctx)
	return m.keyringKeeper().handOver(ctx)
}
