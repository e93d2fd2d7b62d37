package network

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/domain"
	"virtmesh/agent/objects"
)

// repairEvery is how often the host's network is compared with the wanted one although
// no change is known. Other software changes a host's network too: an interface appears
// late, a server dies. On a host with 250 guests a comparison takes 25 ms. A packet
// filter that something else changed, such as a firewall that restarts, does not wait
// for it: the kernel reports that.
const repairEvery = 30 * time.Second

// repairPause is the shortest time between two comparisons because of reports of the
// kernel, so that a program which removes the filter again and again costs no more. The
// first report does not wait.
const repairPause = 200 * time.Millisecond

// firstRetry is how soon a network that could not be made is tried again. Each
// further failure doubles the time, up to repairEvery.
const firstRetry = time.Second

// Run applies the network that the instances need now, and again whenever the
// instances or the members of the mesh change, or something changes the packet filter,
// and at least every repairEvery, until ctx ends.
func (n *Network) Run(ctx context.Context) error {
	if err := errors.Join(n.Instances.WaitForSync(ctx), n.Claims.WaitForSync(ctx), n.Networks.WaitForSync(ctx)); err != nil {
		return fmt.Errorf("host network: %w", err)
	}
	n.matchInstances()
	defer n.Instances.AddHandler(func(change objects.Change[*kubevirtv1.VirtualMachineInstance]) {
		if change.New != nil && n.isOnThisHost(change.New) || (change.New == nil || change.Recreated) && n.isOnThisHost(change.Old()) {
			n.wake()
		}
	})()
	defer n.Claims.AddHandler(func(ev claims.Event) {
		if ev.Instance == nil {
			return
		}
		for _, claim := range []*claims.Instance{ev.Instance.Old, ev.Instance.New} {
			if claim != nil && claim.Host == n.Host {
				n.wake()
			}
		}
	})()
	if n.Subscribe != nil {
		defer n.Subscribe(n.wake)()
	}
	n.wake()
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		n.watchFilter(ctx)
	}()
	defer func() { <-watching }()
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
		_, _, err := n.setNetwork(ctx, nil)
		err = errors.Join(err, n.leases.Flush(), n.attached.flush())
		if ctx.Err() != nil {
			return nil
		}
		n.logChange(last, err)
		last = err
		if failures++; err == nil {
			failures = 0
		}
		repair.Reset(nextRepair(failures))
	}
}

// watchFilter wakes Run after changes to the packet filter, until ctx ends. When the kernel
// cannot be watched it says so and tries again; meanwhile a lost filter is found with the
// next comparison.
func (n *Network) watchFilter(ctx context.Context) {
	for {
		err := n.Plug.WatchFilter(ctx, func() {
			n.wake()
			pause(ctx, repairPause)
		})
		if ctx.Err() != nil {
			return
		}
		n.Logger.Warn("the packet filter is not watched, and is only compared now and then", "every", repairEvery, "err", err)
		pause(ctx, repairEvery)
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// nextRepair is the time until the next comparison after so many failures in a row.
func nextRepair(failures int) time.Duration {
	if failures == 0 || failures > 5 {
		return repairEvery
	}
	return min(repairEvery, firstRetry<<(failures-1))
}

// logChange logs a failure once, not at every try.
func (n *Network) logChange(last, err error) {
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

// matchInstances makes the stored addresses and attachments match the instances, which
// may have changed while the agent was down.
func (n *Network) matchInstances() {
	n.storeMissingAttachments()
	n.releaseEnded()
}

// storeMissingAttachments reads the networks of running instances that have no stored
// attachment: an agent that did not store attachments started them.
func (n *Network) storeMissingAttachments() {
	for _, vmi := range n.instancesHere(nil) {
		if vmi.Status.Phase != kubevirtv1.Running {
			continue
		}
		for name, network := range networksByName(vmi) {
			if _, known := n.attached.of(leaseKey(domain.Ref(vmi), name)); known || network.Multus == nil {
				continue
			}
			attachment, err := n.attachment(vmi, network)
			if err == nil {
				err = n.attached.putAttachment(leaseKey(domain.Ref(vmi), network.Name), attachment)
			}
			if err != nil {
				n.Logger.Warn("the network of a running guest could not be read", "instance", objects.KeyOf(vmi), "network", name, "err", err)
			}
		}
	}
}

// releaseEnded releases the addresses and attachments of ended instances. It looks up
// the instance of each key, and not in a list made before: an instance that came
// meanwhile may have got an address.
func (n *Network) releaseEnded() {
	err := n.leases.Retain(n.needsKey)
	if err = errors.Join(err, n.attached.removeAttachments(func(key string) bool { return !n.needsKey(key) })); err != nil {
		n.Logger.Warn("the addresses and networks of ended instances could not be released", "err", err)
	}
}

// needsKey reports whether the instance that a leaseKey names still needs the address or
// attachment stored under it.
func (n *Network) needsKey(key string) bool {
	parts := strings.Split(key, "/")
	if len(parts) != 4 {
		return false
	}
	vmi, ok := n.Instances.Get(objects.Key{Namespace: parts[0], Name: parts[1]})
	return ok && string(vmi.UID) == parts[2] && n.isOnThisHost(vmi) && !vmi.IsFinal()
}
