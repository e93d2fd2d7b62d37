package network

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
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
	n.adopt()
	defer n.Instances.AddHandler(func(change objects.Change[*kubevirtv1.VirtualMachineInstance]) {
		if n.here(change.Old) || n.here(change.New) {
			n.wake()
		}
	})()
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
		err = errors.Join(err, n.leases.Flush(), n.attached.flush())
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

// adopt gives back what instances that ended while the agent was away still
// hold, and looks up the networks of those that an agent started which did not
// remember them.
func (n *Network) adopt() {
	for _, vmi := range n.Instances.List("") {
		if !n.here(vmi) || vmi.Status.Phase != kubevirtv1.Running {
			continue
		}
		for name, network := range networksByName(vmi) {
			if _, known := n.attached.get(leaseKey(refOf(vmi), name)); known || network.Multus == nil {
				continue
			}
			if err := n.attach(vmi, network); err != nil {
				n.Logger.Warn("the network of a running guest is not known", "instance", objects.KeyOf(vmi), "network", name, "err", err)
			}
		}
	}
	// An instance is looked up when its key is judged: one that came meanwhile may
	// have got an address.
	err := n.leases.Retain(n.held)
	if err = errors.Join(err, n.attached.drop(func(key string) bool { return !n.held(key) })); err != nil {
		n.Logger.Warn("old addresses and networks could not be given back", "err", err)
	}
}

// held tells whether the instance that a leaseKey names still needs what is
// kept under it.
func (n *Network) held(key string) bool {
	parts := strings.Split(key, "/")
	if len(parts) != 4 {
		return false
	}
	vmi, ok := n.Instances.Get(objects.Key{Namespace: parts[0], Name: parts[1]})
	return ok && string(vmi.UID) == parts[2] && n.here(vmi) && !vmi.IsFinal()
}
