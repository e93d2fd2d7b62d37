package host

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/host/executor"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/publish"
	"virtmesh/agent/host/quarantine"
	"virtmesh/agent/host/sweep"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	machine "virtmesh/agent/vmi"
	"virtmesh/gossip"
	"virtmesh/storage"
)

// addLoops assembles the loops of this host, in the order in which they act on an
// instance.
func (h *Host) addLoops(deps Deps) error {
	h.addLoop("platform", h.platform.Run)
	h.addLoop("network", h.network.Run)
	h.addLoop("hypervisor", h.executor.Observe)
	for _, add := range []func(Deps) error{h.addExecutor, h.addSweeper, h.addGuestQuarantine, h.addProvisioner, h.addStorageWatch, h.addHostPublisher, h.addHostTeller} {
		if err := add(deps); err != nil {
			return err
		}
	}
	return nil
}

// addLoop adds a loop that Run runs.
func (h *Host) addLoop(name string, run func(context.Context) error) {
	h.loops = append(h.loops, stewards.Loop{Name: name, Run: run})
}

// engine returns the dependencies that all loops of this host share; part names the
// loop in the log.
func (d Deps) engine(part string) stewards.Deps {
	return stewards.Deps{
		Store: d.Store, Cache: d.Cache, Claims: d.Claims, Recorder: d.Recorder, Stewardship: d.Stewardship,
		Logger: d.Logger.With("part", part), Registerer: d.Metrics,
	}
}

func (h *Host) addExecutor(deps Deps) error {
	c, err := h.executor.Controller(deps.engine("executor"))
	if err != nil {
		return err
	}
	h.addLoop("executor", c.Run)
	return nil
}

func (h *Host) addSweeper(deps Deps) error {
	s, err := sweep.New(deps.engine("sweep"), deps.Self.Name, h.hasGuest, deps.Confirm)
	if err != nil {
		return err
	}
	h.addLoop("stale claims", s.Run)
	return nil
}

func (h *Host) addGuestQuarantine(deps Deps) error { return h.addQuarantine(deps, h.runningGuests) }

func (h *Host) addQuarantine(deps Deps, running quarantine.Running) error {
	k, err := quarantine.New(deps.engine("quarantine"), deps.Self.Name, running)
	if err != nil {
		return err
	}
	h.addLoop("quarantine", k.Run)
	return nil
}

// runningGuests returns the instances of which this host has a domain that runs.
func (h *Host) runningGuests(ctx context.Context) ([]types.UID, error) {
	domains, err := h.platform.hypervisor.List(ctx)
	if err != nil {
		return nil, err
	}
	var running []types.UID
	for _, d := range domains {
		if d.State.Active() {
			running = append(running, types.UID(d.Owner.UID))
		}
	}
	return running, nil
}

// hasGuest reports whether this host has a domain of an instance, running or not.
func (h *Host) hasGuest(ctx context.Context, uid types.UID) (bool, error) {
	domains, err := h.platform.hypervisor.List(ctx)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(domains, func(d hypervisor.Domain) bool { return d.Owner.UID == string(uid) }), nil
}

func (h *Host) addProvisioner(deps Deps) error {
	c, err := stewards.New(deps.engine("volumes"), stewards.Steward{
		Name: "volumes", Everywhere: true, Reconciler: h.provisioner,
		Inputs:  []stewards.Input{stewards.Watch[*corev1.PersistentVolumeClaim](deps.Cache)},
		Outputs: executor.VolumeOutputs(),
	})
	if err != nil {
		return err
	}
	h.addLoop("volumes", c.Run)
	return nil
}

func (h *Host) addStorageWatch(Deps) error {
	h.addLoop("pools", h.pools.Run)
	h.addLoop("disk", h.reserve.Run)
	return nil
}

func (h *Host) addHostPublisher(deps Deps) error {
	mesh := objects.For[*meshv1alpha1.MeshConfig](deps.Cache)
	return h.addPublisher(deps, func() publish.Description {
		description := h.platform.describe(deps.Self, deps.Subnet.String())
		config, _ := mesh.Get(objects.Key{Name: meshv1alpha1.Name})
		description.Disks = h.disks.claimable(meshv1alpha1.StorageOvercommitPercent(config))
		description.Conditions = append(description.Conditions, h.pools.condition(), h.reserve.Condition())
		if found, known, _ := h.platform.last(); known {
			description.Conditions = append(description.Conditions, found.confined.Condition())
		}
		return description
	})
}

func (h *Host) addPublisher(deps Deps, describe func() publish.Description) (err error) {
	cfg := publish.DefaultConfig()
	cfg.Host, cfg.Store, cfg.Cache, cfg.Claims = deps.Self.Name, deps.Store, deps.Cache, deps.Claims
	cfg.Describe = describe
	cfg.Logger, cfg.Registerer = deps.Logger.With("part", "node"), deps.Metrics
	if h.publisher, err = publish.New(cfg); err != nil {
		return err
	}
	h.addLoop("node", h.publisher.Run)
	return nil
}

// teller is what the mesh is told of this host by gossip.
type teller struct {
	facts  func() gossip.Facts
	free   func() machine.Resources
	pools  func() map[string]storage.Space
	images func() []string
}

func (h *Host) addHostTeller(deps Deps) error {
	facts := func() gossip.Facts {
		facts := deps.Self.Facts
		found, _, _ := h.platform.last()
		facts.Allocatable = publish.GossipResources(found.allocatable)
		facts.KVM, facts.CPUModels = found.kvm.Usable, found.capabilities.CPUModels
		return facts
	}
	return h.addTeller(deps, teller{facts: facts, free: h.judge.Free, pools: h.disks.space, images: h.volumes.ImageReferences})
}

func (h *Host) addTeller(deps Deps, what teller) error {
	cfg := publish.DefaultTellerConfig()
	cfg.Host, cfg.Logger = deps.Self.Name, deps.Logger.With("part", "facts")
	cfg.Facts = what.facts
	cfg.Tell, cfg.Free = deps.Mesh.SetFacts, what.free
	cfg.Pools, cfg.Images, cfg.Nodes = what.pools, what.images, objects.For[*corev1.Node](deps.Cache)
	teller, err := publish.NewTeller(cfg)
	if err != nil {
		return err
	}
	h.addLoop("facts", teller.Run)
	return nil
}
