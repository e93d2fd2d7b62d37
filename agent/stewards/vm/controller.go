package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
	cdiv1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"

	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	machine "virtmesh/agent/vmi"
)

// Prepare completes an instance that was made from its machine's template,
// before the instance is created. Instance types will use this. It must not
// change vm.
type Prepare func(ctx context.Context, vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance) error

// Config describes the controller of virtual machines.
type Config struct {
	stewards.Deps
	// Defaults returns the mesh's choices that complete an instance, after
	// Prepare. It is called for each instance, and may be called by several
	// goroutines at once.
	Defaults func() machine.Defaults
	// Prepare are applied to a new instance, in order.
	Prepare []Prepare
	// Workers is the number of machines handled at the same time.
	Workers int
	// BackoffMin is the delay before a machine is started again whose instance
	// failed before it ran, or ended by itself within BackoffMax after it had
	// started; it doubles up to BackoffMax.
	BackoffMin, BackoffMax time.Duration
}

// DefaultConfig returns the settings to start from.
func DefaultConfig() Config {
	return Config{Defaults: machine.DefaultDefaults, Workers: 4, BackoffMin: 10 * time.Second, BackoffMax: 300 * time.Second}
}

// Validate reports what is missing or contradicts itself.
func (c Config) Validate() error {
	switch {
	case c.Store == nil || c.Cache == nil || c.Recorder == nil || c.Logger == nil || c.Defaults == nil:
		return errors.New("vm controller: Store, Cache, Recorder, Logger and Defaults are required")
	case c.Workers < 1:
		return fmt.Errorf("vm controller: Workers is %d, want at least 1", c.Workers)
	case c.BackoffMin <= 0 || c.BackoffMax < c.BackoffMin:
		return fmt.Errorf("vm controller: want 0 < BackoffMin <= BackoffMax, have %s and %s", c.BackoffMin, c.BackoffMax)
	}
	return nil
}

// Controller is the control loop of virtual machines.
type Controller struct {
	cfg    Config
	vms    *objects.Informer[*kubevirtv1.VirtualMachine]
	vmis   *objects.Informer[*kubevirtv1.VirtualMachineInstance]
	dvs    *objects.Informer[*cdiv1.DataVolume]
	claims *objects.Informer[*corev1.PersistentVolumeClaim]
	engine *stewards.Controller
	// runs is since when the instances have been running, or not, of the machines that
	// failed to start, as this host has seen it.
	runs stewards.Sightings[running]
}

// New checks cfg and returns a controller that is not yet running.
func New(cfg Config) (*Controller, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	var err error
	if cfg.Deps, err = cfg.Deps.Complete(); err != nil {
		return nil, err
	}
	c := &Controller{
		cfg:    cfg,
		vms:    objects.For[*kubevirtv1.VirtualMachine](cfg.Cache),
		vmis:   objects.For[*kubevirtv1.VirtualMachineInstance](cfg.Cache),
		dvs:    objects.For[*cdiv1.DataVolume](cfg.Cache),
		claims: objects.For[*corev1.PersistentVolumeClaim](cfg.Cache),
	}
	c.engine, err = stewards.New(cfg.Deps, stewards.Steward{
		Name: "virtualmachine", Scope: "virtualmachines", Workers: cfg.Workers,
		Reconciler: stewards.ReconcilerFunc(c.reconcile),
		Moved:      func(key stewards.Key) { c.runs.Forget(key.String()) },
		Inputs: []stewards.Input{
			stewards.Watch[*kubevirtv1.VirtualMachine](cfg.Cache),
			stewards.WatchNamed(cfg.Cache, "the machine that owns it", keysOfOwner[*kubevirtv1.VirtualMachineInstance]),
			stewards.WatchNamed(cfg.Cache, "the machine that owns it", keysOfOwner[*cdiv1.DataVolume]),
			stewards.WatchNamed(cfg.Cache, "the machine that owns it", keysOfOwner[*corev1.PersistentVolumeClaim]),
		},
		Outputs: []stewards.Output{
			stewards.Writes[*kubevirtv1.VirtualMachine](stewards.Update | stewards.Delete),
			stewards.Writes[*kubevirtv1.VirtualMachineInstance](stewards.Create | stewards.Delete),
			stewards.WritesFields[*kubevirtv1.VirtualMachineInstance]("spec", "metadata"),
			stewards.Writes[*cdiv1.DataVolume](stewards.Create),
			stewards.Writes[*corev1.PersistentVolumeClaim](stewards.Create),
			stewards.WritesEvents(),
		},
	})
	return c, err
}

// Declaration returns the steward with its inputs and outputs.
func (c *Controller) Declaration() stewards.Steward { return c.engine.Declaration() }

// Run handles virtual machines until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.engine.Run(ctx) }

// keysOfOwner names the virtual machine that controls an object, or, for an
// instance without an owner, the machine of its name, which may adopt it.
func keysOfOwner[T objects.Object](o T) []objects.Key {
	key := objects.KeyOf(o)
	if ref := metav1.GetControllerOf(o); ref != nil {
		if ref.Kind != kubevirtv1.VirtualMachineGroupVersionKind.Kind {
			return nil
		}
		key.Name = ref.Name
	}
	return []objects.Key{key}
}
