package raise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
)

const (
	// patience is how long every host must have known a level before the mesh is raised
	// to it.
	patience = 10 * time.Minute
	// interval is how often the hosts are looked at.
	interval = time.Minute
)

// Mesh is the mesh as far as its feature level matters.
type Mesh interface {
	// FeatureLevel returns the level that the mesh has.
	FeatureLevel() uint32
	// LevelHosts returns the hosts that the mesh has records of.
	LevelHosts() []level.Host
	// RaiseFeatureLevel asks every host whether it knows a level, and raises the mesh to it.
	RaiseFeatureLevel(ctx context.Context, to uint32) error
}

// Raiser raises the mesh's feature level where the policy lets it.
type Raiser struct {
	mesh     Mesh
	settings *objects.Informer[*meshv1alpha1.MeshConfig]
	recorder *objects.Recorder
	log      *slog.Logger
	engine   *stewards.Controller

	mu sync.Mutex
	// target is the level that every host knows, since when as far as this host has seen.
	target uint32
	since  time.Time
	holdup holdup
}

// New returns a raiser that is not yet running.
func New(d stewards.Deps, mesh Mesh) (*Raiser, error) {
	d, err := d.Complete()
	if err != nil {
		return nil, err
	}
	if d.Recorder == nil {
		return nil, errors.New("raise: Deps.Recorder is nil")
	}
	r := &Raiser{mesh: mesh, settings: objects.For[*meshv1alpha1.MeshConfig](d.Cache), recorder: d.Recorder, log: d.Logger}
	r.engine, err = stewards.New(d, stewards.Steward{
		Name: "feature-level", Workers: 1, Reconciler: stewards.ReconcilerFunc(r.reconcile),
		Inputs: []stewards.Input{
			stewards.Periodic("feature-level", "every minute"),
			stewards.Reads[*meshv1alpha1.MeshConfig](d.Cache),
			{What: "records and facts of the hosts"},
		},
		Outputs: []stewards.Output{
			stewards.AsksFor("the mesh's feature level"),
			stewards.WritesEvents(),
		},
		// What one host has seen of the past says nothing once another was the steward.
		Moved:      func(stewards.Key) { r.forgetAll() },
		MinBackoff: interval, MaxBackoff: patience,
	})
	return r, err
}

// Declaration returns the steward with its inputs and outputs.
func (r *Raiser) Declaration() stewards.Steward { return r.engine.Declaration() }

// Run watches the hosts until ctx ends.
func (r *Raiser) Run(ctx context.Context) error { return r.engine.Run(ctx) }

// forgetWait begins the wait of the policy Automatic anew.
func (r *Raiser) forgetWait() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target, r.since = 0, time.Time{}
}

// forgetAll makes the raiser know nothing of the past.
func (r *Raiser) forgetAll() {
	r.forgetWait()
	r.endHoldup()
}

// reconcile raises the level if that is due, and says so if it is due and cannot be done.
func (r *Raiser) reconcile(ctx context.Context, _ stewards.Key) (stewards.Result, error) {
	again := stewards.Result{RequeueAfter: interval}
	config, _ := r.settings.Get(objects.Key{Name: meshv1alpha1.Name})
	mesh := r.mesh.FeatureLevel()
	outlook := level.Look(mesh, r.mesh.LevelHosts())
	switch target := outlook.Reachable; {
	case meshv1alpha1.Effective(config).FeatureLevel != meshv1alpha1.FeatureLevelAutomatic || outlook.Newest == mesh:
		r.forgetAll()
	case target == mesh:
		r.forgetWait()
		r.reportHoldup(config, behind(outlook))
	case r.knownFor(target) < patience:
		r.endHoldup()
	case len(outlook.Unheard) > 0:
		// The raise would find by itself that a host does not answer, and ask all others
		// for nothing.
		r.reportHoldup(config, unheard(outlook))
	default:
		return again, r.raise(ctx, config, mesh, target)
	}
	return again, nil
}

// raise raises the mesh from a level to another.
func (r *Raiser) raise(ctx context.Context, config *meshv1alpha1.MeshConfig, mesh, target uint32) error {
	if err := r.mesh.RaiseFeatureLevel(ctx, target); err != nil {
		r.reportHoldup(config, fault.Of(err).Error())
		return fmt.Errorf("raise the mesh's feature level to %d: %w", target, err)
	}
	r.log.Info("the mesh's feature level was raised", "level", target, "before", mesh)
	r.recorder.Event(config, corev1.EventTypeNormal, "FeatureLevelRaised", fmt.Sprintf("Every host knows feature level %d: the mesh was raised from %d to it", target, mesh))
	r.forgetAll()
	return nil
}

// knownFor returns for how long this host has seen that every host knows the level.
func (r *Raiser) knownFor(target uint32) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.target != target {
		r.target, r.since = target, time.Now()
	}
	return time.Since(r.since)
}
