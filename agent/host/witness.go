package host

import (
	"context"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
	"virtmesh/agent/host/publish"
	"virtmesh/agent/host/volumes"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/guests"
	machine "virtmesh/agent/vmi"
	"virtmesh/gossip"
	"virtmesh/raftstore"
	"virtmesh/storage"
)

// openWitness opens a host that runs no guests. It has no hypervisor, pools and networks; it
// still tells the mesh what it is, and decides what any host may decide about volumes. It
// returns an error if instances are placed on this host: nobody would look after them.
func openWitness(ctx context.Context, deps Deps) (*Host, error) {
	held, err := claims.OnHost(ctx, deps.Store, deps.Self.Name, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return nil, fmt.Errorf("count the instances on this host: %w", err)
	}
	if len(held) > 0 {
		return nil, fmt.Errorf("role: %d instances are placed on this host, and a witness runs none: set the role to %q, start the agent, stop or move them, and change the role then", len(held), RoleWorker)
	}
	h := &Host{guests: noGuests{deps.Self.Name}, offerer: noOffers{}}
	h.provisioner = volumes.NewProvisioner(volumes.ProvisionerConfig{
		Host: deps.Self.Name, Store: deps.Store, Confirm: deps.Confirm, Cache: deps.Cache, States: noStates{},
		Pools:    func() map[string]storage.Pool { return nil },
		Unusable: func(string) error { return nil },
		Removed:  deps.Mesh.Removed, Mine: func(key objects.Key) bool { return deps.Stewardship.Mine("claims", key) },
		Events: deps.Recorder, Logger: deps.Logger.With("part", "volumes"),
	})
	if err := h.addWitnessLoops(deps); err != nil {
		return nil, err
	}
	return h, nil
}

func (h *Host) addWitnessLoops(deps Deps) error {
	if err := h.addQuarantine(deps, func(context.Context) ([]types.UID, error) { return nil, nil }); err != nil {
		return err
	}
	if err := h.addProvisioner(deps); err != nil {
		return err
	}
	if err := h.addPublisher(deps, func() publish.Description { return describeWitness(deps.Self) }); err != nil {
		return err
	}
	return h.addTeller(deps, teller{
		facts:  func() gossip.Facts { return deps.Self.Facts },
		free:   func() machine.Resources { return machine.Resources{} },
		pools:  func() map[string]storage.Space { return nil },
		images: func() []string { return nil },
	})
}

// describeWitness returns the description of a witness for its Node object.
func describeWitness(self Self) publish.Description {
	return publish.Description{
		Witness: true, Addresses: self.addresses(), Info: publish.SystemInfo("/", self.Facts.Version), Zone: self.Facts.Zone, Labels: self.Facts.Labels,
	}
}

// noOffers refuses every instance.
type noOffers struct{}

var _ guests.Offerer = noOffers{}

// Offer implements guests.Offerer.
func (noOffers) Offer(context.Context, claims.OfferRequest) (claims.Offer, error) {
	return claims.Offer{Reason: "the host is a witness and runs no guests"}, nil
}

// noGuests are the guests of a host that has none.
type noGuests struct{ host string }

var _ guests.Instances = noGuests{}

func (n noGuests) missing(namespace, name string) error {
	return fault.New(fault.NotFound, "host %s is a witness and does not run %s/%s", n.host, namespace, name)
}

// Stream implements guests.Instances.
func (n noGuests) Stream(_ context.Context, namespace, name string, _ guests.StreamKind) (io.ReadWriteCloser, error) {
	return nil, n.missing(namespace, name)
}

// Pause implements guests.Instances.
func (n noGuests) Pause(_ context.Context, namespace, name string) error {
	return n.missing(namespace, name)
}

// Unpause implements guests.Instances.
func (n noGuests) Unpause(_ context.Context, namespace, name string) error {
	return n.missing(namespace, name)
}

// GuestOSInfo implements guests.Instances.
func (n noGuests) GuestOSInfo(_ context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestAgentInfo, error) {
	return nil, n.missing(namespace, name)
}

// Users implements guests.Instances.
func (n noGuests) Users(_ context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestOSUserList, error) {
	return nil, n.missing(namespace, name)
}

// Filesystems implements guests.Instances.
func (n noGuests) Filesystems(_ context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceFileSystemList, error) {
	return nil, n.missing(namespace, name)
}

// noStates keeps nothing of TPMs and firmware.
type noStates struct{}

var _ volumes.States = noStates{}

// Keep implements volumes.States.
func (noStates) Keep(machine string, _ types.UID) error {
	return fmt.Errorf("a witness keeps no state of machine %s", machine)
}

// KeptFor implements volumes.States.
func (noStates) KeptFor(types.UID) (machine string, err error) { return "", nil }

// LostTPM implements volumes.States.
func (noStates) LostTPM(context.Context, string) (bool, error) { return false, nil }

// Remove implements volumes.States.
func (noStates) Remove(context.Context, types.UID) error { return nil }
