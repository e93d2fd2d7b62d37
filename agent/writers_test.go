package agent

import (
	"context"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/executor"
	"virtmesh/agent/host/publish"
	"virtmesh/agent/host/quarantine"
	"virtmesh/agent/host/sweep"
	"virtmesh/agent/kinds"
	"virtmesh/agent/kinds/meshv1alpha1"
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

// noHosts is a mesh whose gossip knows no host.
type noHosts struct{ schedule.Facts }

// declaredOutputs returns what every control loop declares to write, by the package of
// the loop. The engine refuses all other writes.
func declaredOutputs(t *testing.T) map[string][]stewards.Output {
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

	outputs := map[string][]stewards.Output{
		"host/executor": executor.Outputs(), "host/volumes": executor.VolumeOutputs(), "host/publish": publish.Outputs(),
	}
	add := func(pkg string, c interface{ Declaration() stewards.Steward }, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		outputs[pkg] = append(outputs[pkg], c.Declaration().Outputs...)
	}
	vmConfig := vm.DefaultConfig()
	vmConfig.Deps = d
	c1, err := vm.New(vmConfig)
	add("stewards/vm", c1, err)
	placeConfig := schedule.DefaultConfig()
	placeConfig.Deps, placeConfig.Volumes = d, schedule.FromClaims(d.Cache)
	placeConfig.View = schedule.NewView(d.Store, d.Cache, d.Claims, noHosts{})
	c2, err := schedule.New(placeConfig)
	add("stewards/schedule", c2, err)
	c3, err := nodes.New(d, &stewardstest.Members{}, nil)
	add("stewards/nodes", c3, err)
	c10, err := nodes.NewInstances(d)
	add("stewards/nodes", c10, err)
	c4, err := namespace.New(d)
	add("stewards/namespace", c4, err)
	account, err := serviceaccount.New(d)
	add("stewards/serviceaccount", account, err)
	quotas, err := quota.New(d)
	add("stewards/quota", quotas, err)
	config, err := configuration.New(d)
	add("stewards/configuration", config, err)
	c5, err := operation.New(d, "h1", operation.Acts{meshv1alpha1.RemoveHost: {Outputs: removalOutputs()}})
	add("stewards/operation", c5, err)
	c6, err := collect.New(d)
	add("stewards/collect", c6, err)
	c7, err := collect.NewExpirer(d)
	add("stewards/collect", c7, err)
	c8, err := sweep.New(d, "h1", func(context.Context, types.UID) (bool, error) { return false, nil }, func(context.Context) error { return nil })
	add("host/sweep", c8, err)
	c11, err := quarantine.New(d, "h1", func(context.Context) ([]types.UID, error) { return nil, nil })
	add("host/quarantine", c11, err)
	c12, err := raise.New(d, nil)
	add("stewards/raise", c12, err)
	c13, err := roles.NewRoles(d)
	add("stewards/roles", c13, err)
	c14, err := roles.NewBindings(d)
	add("stewards/roles", c14, err)
	c9, err := collect.NewEpochs(d)
	add("stewards/collect", c9, err)
	return outputs
}

// writesPart reports whether a loop with these outputs writes the part of a kind: its
// spec, by creation too, or its status. What a loop does to objects of all kinds, the
// deletion of dependents for example, is not counted.
func writesPart(outputs []stewards.Output, kind *kinds.Kind, status bool) bool {
	return slices.ContainsFunc(outputs, func(o stewards.Output) bool {
		switch {
		case o.Prefix != kind.Prefix():
			return false
		case !status && o.Acts&stewards.Create != 0:
			return true
		case o.Acts&stewards.Update == 0:
			return false
		}
		return o.Fields == nil || slices.ContainsFunc(o.Fields, func(field string) bool {
			part, _, _ := strings.Cut(field, ".")
			return part != "metadata" && (part == "status") == status
		})
	})
}

// The catalogue, and the documentation that is made from it, names the loops that write
// a kind: all of those that declare it, and no others.
func TestCatalogueNamesTheWriters(t *testing.T) {
	outputs := declaredOutputs(t)
	loop := regexp.MustCompile(`\b(stewards|host)/[a-z]+`)
	for _, kind := range kinds.All() {
		for part, text := range map[string]string{"spec": kind.Writers.Spec, "status": kind.Writers.Status} {
			if strings.Contains(text, "every loop") {
				continue // events
			}
			named := loop.FindAllString(text, -1)
			for _, pkg := range slices.Sorted(maps.Keys(outputs)) {
				writes, says := writesPart(outputs[pkg], kind, part == "status"), slices.Contains(named, pkg)
				if part == "status" && !kind.HasStatus() {
					writes = false
				}
				if writes != says {
					t.Errorf("%s of %s: %s declares to write it: %t; the catalogue says so: %t (%q)", part, kind.GVK.Kind, pkg, writes, says, text)
				}
			}
			for _, pkg := range named {
				if _, ok := outputs[pkg]; !ok {
					t.Errorf("%s of %s: %s is no control loop (%q)", part, kind.GVK.Kind, pkg, text)
				}
			}
		}
	}
}
