package roster

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/kinds/hcov1beta1"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/configuration"
	"virtmesh/agent/stewards/schedule"
	"virtmesh/agent/stewards/stewardstest"
	machine "virtmesh/agent/vmi"
)

func rosterDeps(t *testing.T) Deps {
	d := deps(t)
	return Deps{
		Host: "h1", Store: d.Store, Cache: d.Cache, Claims: d.Claims, Recorder: d.Recorder, Members: &stewardstest.Members{},
		Logger: d.Logger, Metrics: prometheus.NewPedanticRegistry(),
	}
}

// An agent runs every steward once, and each has a name of its own in its errors.
func TestLoopsAreAllStewards(t *testing.T) {
	loops, err := Loops(rosterDeps(t))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, loop := range loops {
		if loop.Run == nil || loop.Name == "" || slices.Contains(names, loop.Name) {
			t.Errorf("loop %q after %q", loop.Name, names)
		}
		names = append(names, loop.Name)
	}
	d := deps(t)
	view := schedule.NewView(d.Store, d.Cache, d.Claims, alive{"h1"})
	// Placement has a loop beside its own, which gathers what it knows.
	if want := len(construct(t, d, "h1", view, &stewardstest.Members{})) + 1; len(loops) != want {
		t.Errorf("%d loops %q, want %d", len(loops), names, want)
	}
}

// Placement decides nothing before it knows the hosts, and ends all the same.
func TestPlacementWaitsForTheHosts(t *testing.T) {
	loops, err := Loops(rosterDeps(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, loop := range loops {
		if loop.Name != "placement" {
			continue
		}
		done := make(chan error, 1)
		go func() { done <- loop.Run(ctx) }()
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("placement does not end")
		}
		return
	}
	t.Error("there is no placement")
}

func TestAStewardThatCannotBeMadeIsAnError(t *testing.T) {
	for name, drop := range map[string]func(*Deps){
		"store":    func(d *Deps) { d.Store = nil },
		"recorder": func(d *Deps) { d.Recorder = nil },
		"figures":  func(d *Deps) { d.Metrics = prometheus.NewRegistry(); _, _ = Loops(*d) },
		"nothing":  func(*Deps) {},
	} {
		d := rosterDeps(t)
		drop(&d)
		if _, err := Loops(d); (err != nil) != (name != "nothing") {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// What an administrator sets for the mesh fills in machines from then on.
func TestDefaultsFollowTheMesh(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		defaults := Defaults(w.Host("h1").Deps.Cache)
		w.Settle()
		before := defaults().MaxHotplugRatio
		config := &meshv1alpha1.MeshConfig{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.Name}}
		ratio := int64(before) + 1
		config.Spec.VirtualMachine.MaxHotplugRatio = &ratio
		w.Create(config)
		w.Settle()
		if got := defaults().MaxHotplugRatio; got != uint32(ratio) {
			t.Errorf("machines may grow %d times, want %d", got, ratio)
		}
		stewardstest.Delete[*meshv1alpha1.MeshConfig](w, objects.Key{Name: meshv1alpha1.Name}, objects.DeleteOptions{})
		w.Settle()
		if got := defaults().MaxHotplugRatio; got != before {
			t.Errorf("machines may grow %d times, want %d again", got, before)
		}
	})
}

// What an administrator configures fills in machines from then on, and its default does once it is
// taken out.
func TestDefaultsFollowTheConfiguration(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		host := w.Host("h1")
		defaults := Defaults(host.Deps.Cache)
		w.Store.SetFeatureLevel(level.Access)
		c, err := configuration.New(host.Deps)
		w.Check(err)
		host.Start(c.Run)
		w.Settle()
		standard := machine.DefaultDefaults()
		if got := defaults(); got.CPUModel != standard.CPUModel || got.EvictionStrategy != nil {
			t.Errorf("by default: %+v", got)
		}
		where := objects.Key{Namespace: hcov1beta1.Namespace, Name: hcov1beta1.Name}
		model, strategy := "EPYC", kubevirtv1.EvictionStrategyNone
		stewardstest.Edit(w, where, func(c *hcov1beta1.HyperConverged) {
			c.Spec.DefaultCPUModel, c.Spec.EvictionStrategy = &model, &strategy
		})
		w.Settle()
		vmi := &kubevirtv1.VirtualMachineInstance{}
		d := defaults()
		d.SetInstance(vmi)
		if got := vmi.Spec; got.Domain.CPU.Model != model || got.EvictionStrategy == nil || *got.EvictionStrategy != strategy {
			t.Errorf("a machine gets the model %s and the strategy %v", got.Domain.CPU.Model, got.EvictionStrategy)
		}
		own := &kubevirtv1.VirtualMachineInstance{}
		own.Spec.Domain.CPU = &kubevirtv1.CPU{Model: "Haswell"}
		d.SetInstance(own)
		if got := own.Spec.Domain.CPU.Model; got != "Haswell" {
			t.Errorf("a machine that names a model gets %s", got)
		}
		stewardstest.Edit(w, where, func(c *hcov1beta1.HyperConverged) { c.Spec.DefaultCPUModel, c.Spec.EvictionStrategy = nil, nil })
		w.Settle()
		if got := defaults(); got.CPUModel != standard.CPUModel || got.EvictionStrategy != nil {
			t.Errorf("once taken out: %+v", got)
		}
	})
}
