package roster

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"virtmesh/agent/claims"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
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
	"virtmesh/agent/stewards/stewardstest"
	"virtmesh/agent/stewards/vm"
)

var update = flag.Bool("update", false, "write the list of stewards into DESIGN.md")

// declared is a control loop that says what it reads and writes.
type declared interface {
	Declaration() stewards.Steward
	Run(ctx context.Context) error
}

// stable is a mesh whose level never changes.
type stable struct{ raise.Mesh }

// FeatureLevel implements raise.Mesh.
func (stable) FeatureLevel() uint32 { return 1 }

// LevelHosts implements raise.Mesh.
func (stable) LevelHosts() []level.Host { return nil }

// construct makes every steward of a host, as Loops does.
func construct(t testing.TB, d stewards.Deps, host string, view *schedule.View, members stewards.Members) []declared {
	t.Helper()
	var list []declared
	add := func(c declared, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
	vmConfig := vm.DefaultConfig()
	vmConfig.Deps, vmConfig.Defaults = d, Defaults(d.Cache)
	add(vm.New(vmConfig))
	placeConfig := schedule.DefaultConfig()
	placeConfig.Deps, placeConfig.Volumes, placeConfig.View = d, schedule.FromClaims(d.Cache), view
	add(schedule.New(placeConfig))
	add(nodes.New(d, members, nil))
	add(nodes.NewInstances(d))
	add(collect.New(d))
	add(collect.NewExpirer(d))
	add(collect.NewEpochs(d))
	add(namespace.New(d))
	add(serviceaccount.New(d))
	add(quota.New(d))
	add(configuration.New(d))
	add(operation.New(d, host, nil))
	add(raise.New(d, stable{}))
	add(roles.NewRoles(d))
	add(roles.NewBindings(d))
	return list
}

// startAll starts every steward of a host in a world, which only the host itself and h2
// are members of.
func startAll(w *stewardstest.World, name string) {
	w.Helper()
	host := w.Host(name)
	view := schedule.NewView(w.Store, host.Deps.Cache, host.Deps.Claims, alive{name, "h2"})
	ready := make(chan struct{})
	host.Start(func(ctx context.Context) error {
		view.Run(ctx, func() { close(ready) })
		return nil
	})
	for _, c := range construct(w, host.Deps, name, view, w.Members) {
		host.Start(func(ctx context.Context) error {
			select {
			case <-ready:
				return c.Run(ctx)
			case <-ctx.Done():
				return nil
			}
		})
	}
}

// deps are what stewards are made with in a mesh of nothing.
func deps(t *testing.T) stewards.Deps {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	d := stewards.Deps{Store: objectstest.New(), Logger: log}
	cacheConfig := objects.DefaultCacheConfig()
	cacheConfig.Store, cacheConfig.Logger = d.Store, log
	var err error
	if d.Cache, err = objects.NewCache(cacheConfig); err != nil {
		t.Fatal(err)
	}
	recorderConfig := objects.DefaultRecorderConfig()
	recorderConfig.Store, recorderConfig.Logger, recorderConfig.Component, recorderConfig.Host = d.Store, log, "virtmesh", "h1"
	if d.Recorder, err = objects.NewRecorder(recorderConfig); err != nil {
		t.Fatal(err)
	}
	d.Claims = claims.NewCache(d.Cache, log)
	return d
}

const listBegin, listEnd = "<!-- stewards -->\n", "<!-- end of stewards -->\n"

// The list of stewards in DESIGN.md is what they declare.
func TestListOfStewards(t *testing.T) {
	const path = "../DESIGN.md"
	var b strings.Builder
	d := deps(t)
	view := schedule.NewView(d.Store, d.Cache, d.Claims, schedule.FromGossip(nil))
	for _, c := range construct(t, d, "h1", view, &stewardstest.Members{}) {
		s := c.Declaration()
		fmt.Fprintf(&b, "\n**%s**", s.Name)
		if s.Everywhere {
			b.WriteString(" (on every host, for what is this host's)")
		}
		b.WriteString("\n")
		for _, in := range s.Inputs {
			fmt.Fprintf(&b, "- reads %s\n", in)
		}
		for _, out := range s.Outputs {
			fmt.Fprintf(&b, "- writes %s\n", out)
		}
		if len(s.Outputs) == 0 {
			t.Errorf("%s declares no outputs", s.Name)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), listBegin)
	have, after, closed := strings.Cut(rest, listEnd)
	if !ok || !closed {
		t.Fatalf("%s has no marks of the list", path)
	}
	if have == b.String() {
		return
	}
	if !*update {
		t.Fatalf("the list in agent/stewards/DESIGN.md is stale: run go test ./agent/stewards/roster -run TestListOfStewards -update")
	}
	if err := os.WriteFile(path, []byte(before+listBegin+b.String()+listEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
