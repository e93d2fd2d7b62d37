// Package roster assembles the stewards: the control loops that every host of
// the mesh runs, and that share the objects among the hosts. It imports every
// steward and constructs it; a steward imports neither the others nor this
// package.
package roster

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/claims"
	"virtmesh/agent/kinds"
	"virtmesh/agent/kinds/hcov1beta1"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/collect"
	"virtmesh/agent/stewards/configuration"
	"virtmesh/agent/stewards/namespace"
	"virtmesh/agent/stewards/nodes"
	"virtmesh/agent/stewards/operation"
	"virtmesh/agent/stewards/quota"
	"virtmesh/agent/stewards/raise"
	"virtmesh/agent/stewards/roles"
	"virtmesh/agent/stewards/schedule"
	"virtmesh/agent/stewards/serviceaccount"
	"virtmesh/agent/stewards/vm"
	machine "virtmesh/agent/vmi"
	"virtmesh/gossip"
)

// Deps are what the stewards of a host work with. All are required.
type Deps struct {
	// Host is the name of this host.
	Host        string
	Store       objects.Store
	Cache       *objects.Cache
	Claims      *claims.Cache
	Recorder    *objects.Recorder
	Stewardship *stewards.Stewardship
	// Gossip holds the capacity of the hosts, Members which of them are alive. Witness
	// must confirm a death.
	Gossip  *gossip.Gossip
	Members stewards.Members
	Witness nodes.Witness
	// Levels is the mesh as far as its feature level matters.
	Levels raise.Mesh
	// Offers asks a host whether it would take an instance.
	Offers schedule.Offers
	// Acts are the types of operation that this host can carry out.
	Acts operation.Acts
	// Clock is where the times come from that the stewards write.
	Clock   objects.Clock
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// Loops returns the loops of all stewards, in the order a virtual machine meets
// them. Nothing runs yet.
func Loops(deps Deps) ([]stewards.Loop, error) {
	var loops []stewards.Loop
	for _, add := range []func(Deps) ([]stewards.Loop, error){
		virtualMachines, placement, otherNodes, lostInstances, garbage, oldEvents, unusedEpochs, namespaces, accounts, quotas, operations, featureLevel,
		clusterRoles, clusterRoleBindings, configurations,
	} {
		more, err := add(deps)
		if err != nil {
			return nil, err
		}
		loops = append(loops, more...)
	}
	return loops, nil
}

// runner is a control loop that has been constructed.
type runner interface {
	Run(ctx context.Context) error
}

// loopOf returns the loop of a steward, or the error of its constructor.
func loopOf[R runner](name string, r R, err error) ([]stewards.Loop, error) {
	if err != nil {
		return nil, err
	}
	return []stewards.Loop{{Name: name, Run: r.Run}}, nil
}

// engine is what the engine lends to one steward; part names it in the log.
func (d Deps) engine(part string) stewards.Deps {
	return stewards.Deps{
		Store: d.Store, Cache: d.Cache, Claims: d.Claims, Recorder: d.Recorder, Stewardship: d.Stewardship,
		Clock: d.Clock, Logger: d.Logger.With("part", part), Registerer: d.Metrics,
	}
}

// Defaults returns the mesh's choices that fill in virtual machines, as the
// cache has its settings when the function is called.
func Defaults(cache *objects.Cache) func() machine.Defaults {
	settings := objects.For[*meshv1alpha1.MeshConfig](cache)
	configs := objects.For[*hcov1beta1.HyperConverged](cache)
	return func() machine.Defaults {
		config, _ := settings.Get(objects.Key{Name: meshv1alpha1.Name})
		hco, _ := configs.Get(objects.Key{Namespace: hcov1beta1.Namespace, Name: hcov1beta1.Name})
		return kinds.DefaultsUnder(config, hco)
	}
}

func virtualMachines(deps Deps) ([]stewards.Loop, error) {
	cfg := vm.DefaultConfig()
	cfg.Deps = deps.engine("vm")
	cfg.Defaults = Defaults(deps.Cache)
	c, err := vm.New(cfg)
	return loopOf("virtual machines", c, err)
}

func placement(deps Deps) ([]stewards.Loop, error) {
	view := schedule.NewView(deps.Store, deps.Cache, deps.Claims, schedule.FromGossip(deps.Gossip))
	cfg := schedule.DefaultConfig()
	cfg.Deps, cfg.View = deps.engine("placement"), view
	cfg.Offers, cfg.Volumes = deps.Offers, schedule.FromClaims(deps.Cache)
	c, err := schedule.New(cfg)
	if err != nil {
		return nil, err
	}
	ready := make(chan struct{})
	return []stewards.Loop{
		{Name: "view of the hosts", Run: func(ctx context.Context) error {
			view.Run(ctx, func() { close(ready) })
			return nil
		}},
		{Name: "placement", Run: func(ctx context.Context) error {
			select {
			case <-ctx.Done(): // Run then only closes what New has opened
			case <-ready:
			}
			return c.Run(ctx)
		}},
	}, nil
}

func otherNodes(deps Deps) ([]stewards.Loop, error) {
	w, err := nodes.New(deps.engine("node"), deps.Members, deps.Witness)
	return loopOf("other nodes", w, err)
}

func lostInstances(deps Deps) ([]stewards.Loop, error) {
	i, err := nodes.NewInstances(deps.engine("node"))
	return loopOf("instances of other nodes", i, err)
}

func garbage(deps Deps) ([]stewards.Loop, error) {
	c, err := collect.New(deps.engine("collect"))
	return loopOf("garbage collector", c, err)
}

func oldEvents(deps Deps) ([]stewards.Loop, error) {
	e, err := collect.NewExpirer(deps.engine("collect"))
	return loopOf("old events", e, err)
}

func unusedEpochs(deps Deps) ([]stewards.Loop, error) {
	e, err := collect.NewEpochs(deps.engine("collect"))
	return loopOf("unused epochs", e, err)
}

func namespaces(deps Deps) ([]stewards.Loop, error) {
	c, err := namespace.New(deps.engine("namespace"))
	return loopOf("namespaces", c, err)
}

func accounts(deps Deps) ([]stewards.Loop, error) {
	c, err := serviceaccount.New(deps.engine("service accounts"))
	return loopOf("service accounts", c, err)
}

func quotas(deps Deps) ([]stewards.Loop, error) {
	c, err := quota.New(deps.engine("quota"))
	return loopOf("quotas", c, err)
}

func operations(deps Deps) ([]stewards.Loop, error) {
	c, err := operation.New(deps.engine("operation"), deps.Host, deps.Acts)
	return loopOf("operations", c, err)
}

func featureLevel(deps Deps) ([]stewards.Loop, error) {
	r, err := raise.New(deps.engine("raise"), deps.Levels)
	return loopOf("feature level", r, err)
}

func clusterRoles(deps Deps) ([]stewards.Loop, error) {
	r, err := roles.NewRoles(deps.engine("roles"))
	return loopOf("cluster roles", r, err)
}

func clusterRoleBindings(deps Deps) ([]stewards.Loop, error) {
	b, err := roles.NewBindings(deps.engine("roles"))
	return loopOf("cluster role bindings", b, err)
}

func configurations(deps Deps) ([]stewards.Loop, error) {
	c, err := configuration.New(deps.engine("configuration"))
	return loopOf("configuration", c, err)
}
