package hostnet

import (
	"context"
	"errors"
	"fmt"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/k8scni"
)

// repairEvery is how often the network is compared with what is wanted although
// nothing is known to have changed. Others change a host's network too: a
// restart of its firewall takes our filter away, an interface comes late, a
// server dies. On a host with 250 guests a comparison takes 25 ms.
const repairEvery = 30 * time.Second

// firstRetry is how soon a network that could not be made is tried again. Each
// further failure doubles the time, up to repairEvery.
const firstRetry = time.Second

// Run makes the network as the instances want it now, again whenever they or
// the members of the mesh change, and now and then without a reason, until ctx
// ends.
func (n *Network) Run(ctx context.Context) error {
	if err := errors.Join(n.Instances.WaitForSync(ctx), n.Networks.WaitForSync(ctx)); err != nil {
		return fmt.Errorf("host network: %w", err)
	}
	n.dropOldLeases()
	defer n.Instances.AddHandler(func(change objects.Change[*kubevirtv1.VirtualMachineInstance]) {
		if n.here(change.Old) || n.here(change.New) {
			n.wake()
		}
	})()
	defer n.Networks.AddHandler(func(objects.Change[*k8scni.NetworkAttachmentDefinition]) { n.wake() })()
	if n.Subscribe != nil {
		defer n.Subscribe(n.wake)()
	}
	n.wake()
	repair := time.NewTimer(repairEvery)
	defer repair.Stop()
	var last error
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-n.changed:
		case <-repair.C:
		}
		_, _, err := n.set(ctx)
		if ctx.Err() != nil {
			return nil
		}
		n.report(last, err)
		last = err
		if failures++; err == nil {
			failures = 0
		}
		repair.Reset(nextRepair(failures))
	}
}

// nextRepair is when to look again after so many failures in a row.
func nextRepair(failures int) time.Duration {
	if failures == 0 || failures > 5 {
		return repairEvery
	}
	return min(repairEvery, firstRetry<<(failures-1))
}

// report says what is wrong once, not at every try.
func (n *Network) report(last, err error) {
	switch {
	case err == nil && last != nil:
		n.Logger.Info("the host's network is as wanted again")
	case err != nil && (last == nil || err.Error() != last.Error()):
		n.Logger.Error("the host's network is not as wanted", "err", err)
	}
}

func (n *Network) wake() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// dropOldLeases gives back what instances that ended while the agent was away
// still hold.
func (n *Network) dropOldLeases() {
	wanted := map[string]bool{}
	for _, vmi := range n.Instances.List("") {
		if n.here(vmi) && !vmi.IsFinal() {
			for _, nic := range vmi.Spec.Domain.Devices.Interfaces {
				wanted[leaseKey(refOf(vmi), nic.Name)] = true
			}
		}
	}
	if err := n.leases.Retain(func(key string) bool { return wanted[key] }); err != nil {
		n.Logger.Warn("old addresses could not be given back", "err", err)
	}
}
