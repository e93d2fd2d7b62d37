package agent

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/publish"
	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/collect"
	"virtmesh/agent/stewards/namespace"
	"virtmesh/agent/stewards/nodes"
	"virtmesh/agent/stewards/schedule"
	"virtmesh/agent/stewards/vm"
	"virtmesh/agent/vmi"
	"virtmesh/gossip"
)

// addControllers assembles the control loops, in the order a virtual machine
// meets them.
func (h *host) addControllers() error {
	h.loops = append(h.loops,
		loop{"objects", func(ctx context.Context) error { h.cache.Run(ctx); return nil }},
		loop{"events", func(ctx context.Context) error { h.recorder.Run(ctx); return nil }},
		loop{"network", h.network.Run},
		loop{"hypervisor", h.executor.Observe},
	)
	for _, add := range []func() error{h.addVM, h.addPlacement, h.addExecutor, h.addProvisioner, h.addNode, h.addCleaners} {
		if err := add(); err != nil {
			return err
		}
	}
	return nil
}

// add makes run a loop under the controller's name.
func (h *host) add(name string, run func(context.Context) error) {
	h.loops = append(h.loops, loop{name, run})
}

// deps is what the host lends to its control loops; part names one in the log.
func (h *host) deps(part string) stewards.Deps {
	return stewards.Deps{
		Store: h.store, Cache: h.cache, Claims: h.claims, Recorder: h.recorder, Stewardship: h.stewardship,
		Logger: h.log.With("part", part), Registerer: h.metrics,
	}
}

func (h *host) addVM() error {
	cfg := vm.DefaultConfig()
	cfg.Deps = h.deps("vm")
	defaults := vmi.DefaultDefaults()
	cfg.Prepare = []vm.Prepare{func(_ context.Context, _ *kubevirtv1.VirtualMachine, instance *kubevirtv1.VirtualMachineInstance) error {
		vmi.SetNewInstance(defaults, instance, time.Now())
		return nil
	}}
	c, err := vm.New(cfg)
	if err != nil {
		return err
	}
	h.add("virtual machines", c.Run)
	return nil
}

func (h *host) addPlacement() error {
	view := schedule.NewView(h.store, h.cache, h.claims, schedule.FromGossip(h.gossip))
	cfg := schedule.DefaultConfig()
	cfg.Deps, cfg.View = h.deps("placement"), view
	cfg.Offers, cfg.Volumes = h.router, schedule.FromClaims(h.cache)
	c, err := schedule.New(cfg)
	if err != nil {
		return err
	}
	ready := make(chan struct{})
	h.add("view of the hosts", func(ctx context.Context) error {
		view.Run(ctx, func() { close(ready) })
		return nil
	})
	h.add("placement", func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case <-ready:
			return c.Run(ctx)
		}
	})
	return nil
}

// executorWorkers bounds how many instances are started, stopped and reported
// at once. No worker waits for an image or for a guest's agent.
const executorWorkers = 16

// executorTimeout bounds one look at an instance. The slowest part is the start
// of a guest whose huge pages must be cleared first.
const executorTimeout = 10 * time.Minute

func (h *host) addExecutor() error {
	c, err := stewards.New(h.deps("executor"), stewards.Steward{
		Name: "executor", Everywhere: true, Reconciler: h.executor, Workers: executorWorkers, Timeout: executorTimeout,
		Inputs: []stewards.Input{
			stewards.WatchFor(h.cache, "itself, if this host runs it", func(change objects.Change[*kubevirtv1.VirtualMachineInstance]) []objects.Key {
				for _, vmi := range []*kubevirtv1.VirtualMachineInstance{change.New, change.Old} {
					if vmi != nil && vmi.Status.NodeName == h.config.Name {
						return []objects.Key{objects.KeyOf(vmi)}
					}
				}
				return nil
			}),
			{What: "domains of this host", Wakes: "the instance of the domain", Source: h.executor},
		},
	})
	if err != nil {
		return err
	}
	h.add("executor", c.Run)
	return nil
}

func (h *host) addProvisioner() error {
	c, err := stewards.New(h.deps("volumes"), stewards.Steward{
		Name: "volumes", Everywhere: true, Reconciler: h.provisioner,
		Inputs: []stewards.Input{stewards.Watch[*corev1.PersistentVolumeClaim](h.cache)},
	})
	if err != nil {
		return err
	}
	h.add("volumes", c.Run)
	return nil
}

func (h *host) addNode() error {
	publisher := publish.DefaultConfig()
	publisher.Host, publisher.Store, publisher.Cache, publisher.Claims = h.config.Name, h.store, h.cache, h.claims
	publisher.Describe = h.describe
	publisher.Logger, publisher.Registerer = h.log.With("part", "node"), h.metrics
	p, err := publish.New(publisher)
	if err != nil {
		return err
	}
	h.publisher = p
	h.add("node", p.Run)

	facts := publish.DefaultTellerConfig()
	facts.Host, facts.Nodes, facts.Logger = h.config.Name, h.nodes, h.log.With("part", "facts")
	facts.Facts = gossip.Facts{
		MeshAddr: h.config.MeshAddress(), Zone: h.config.Zone, Version: h.version, FeatureLevel: featureLevel,
		Allocatable: publish.GossipResources(h.allocatable), KVM: h.kvm.Usable, CPUModels: h.capabilities.CPUModels, Labels: h.config.Labels,
	}
	facts.Tell, facts.Free, facts.Pools, facts.Images = h.gossip.SetFacts, h.judge.Free, h.provisioner.Usage, h.volumes.ImageReferences
	teller, err := publish.NewTeller(facts)
	if err != nil {
		return err
	}
	h.add("facts", teller.Run)

	w, err := nodes.New(h.deps("node"), liveMembers{h.gossip})
	if err != nil {
		return err
	}
	h.add("other nodes", w.Run)
	return nil
}

// addCleaners assembles what removes objects that nobody wants any more.
func (h *host) addCleaners() error {
	deps := h.deps("gc")
	c, err := collect.New(deps)
	if err != nil {
		return err
	}
	h.add("garbage collector", c.Run)
	e, err := collect.NewExpirer(deps)
	if err != nil {
		return err
	}
	h.add("old events", e.Run)
	s, err := collect.NewSweeper(deps, h.config.Name, h.hasGuest)
	if err != nil {
		return err
	}
	h.add("stale claims", s.Run)
	forgetting, err := collect.NewEpochs(deps)
	if err != nil {
		return err
	}
	h.add("unused epochs", forgetting.Run)
	n, err := namespace.New(h.deps("namespace"))
	if err != nil {
		return err
	}
	h.add("namespaces", n.Run)
	h.add("old tokens", h.pruneTokens)
	return nil
}

// hasGuest tells whether this host has a domain of an instance, running or
// not.
func (h *host) hasGuest(ctx context.Context, uid types.UID) (bool, error) {
	domains, err := h.hypervisor.List(ctx)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(domains, func(d hypervisor.Domain) bool { return d.Owner.UID == string(uid) }), nil
}

// tokenInterval is how often tokens that cannot be used any more are removed.
const tokenInterval = time.Hour

// pruneTokens removes old tokens; one host at a time does, though two would do
// no harm.
func (h *host) pruneTokens(ctx context.Context) error {
	ticker := time.NewTicker(tokenInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if !h.stewardship.Mine("tokens", objects.Key{Name: "tokens"}) {
				continue
			}
			if _, err := identity.NewTokens(h.raft).Prune(ctx); err != nil {
				h.log.Warn("old tokens could not be removed", "err", err)
			}
		}
	}
}
