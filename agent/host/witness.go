package host

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/claims"
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
// returns an error if instances are placed on this host, or a worker's volumes are here:
// nobody would look after them.
func openWitness(ctx context.Context, deps Deps) (*Host, error) {
	if err := checkNothingIsHere(ctx, deps); err != nil {
		return nil, err
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

// checkNothingIsHere returns an error if instances are placed on this host, or its volumes
// keep it from becoming a witness. Of a host that is a witness by its Node already, claims are
// believed no more: it has made no volumes, and whoever may write a claim could keep it from
// starting.
func checkNothingIsHere(ctx context.Context, deps Deps) error {
	local := raftstore.ReadOptions{Consistency: raftstore.Local}
	placed, err := claims.OnHost(ctx, deps.Store, deps.Self.Name, local)
	if err != nil {
		return fmt.Errorf("count the instances on this host: %w", err)
	}
	if len(placed) > 0 {
		return fmt.Errorf("role: %d instances are placed on this host, and a witness runs none: set the role to %q, start the agent, stop or move them, and change the role then", len(placed), RoleWorker)
	}
	held, err := volumes.HeldOn(ctx, deps.Store, deps.Self.Name, local)
	if err != nil || len(held) == 0 {
		return err
	}
	node, err := objects.Get[*corev1.Node](ctx, deps.Store, objects.Key{Name: deps.Self.Name}, local)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read the role of this host: %w", err)
	}
	if err == nil && objects.IsWitness(node) {
		deps.Logger.Warn("claims say that their volumes are on this host, which is a witness", "claims", len(held), "first", held[0].String())
		return nil
	}
	return fmt.Errorf("role: the volumes of %d claims are on this host (the first is %s), and a witness has none: set the role to %q, start the agent, delete the claims or make others in their place on other hosts, and change the role then", len(held), held[0], RoleWorker)
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

// Remove implements volumes.States. What this host kept as a worker is still there, and nobody
// here could tell whether its domain is gone.
func (noStates) Remove(_ context.Context, claim types.UID) error {
	return fmt.Errorf("a witness removes no state of TPM and firmware; claim %s says that it is here", claim)
}
