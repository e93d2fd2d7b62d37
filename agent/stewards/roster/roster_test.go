package roster

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/schedule"
	"virtmesh/agent/stewards/stewardstest"
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
