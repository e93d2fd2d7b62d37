package mesh

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/executor"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/offer"
	"virtmesh/agent/host/publish"
	"virtmesh/agent/host/sweep"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/port"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/operation"
	"virtmesh/agent/stewards/raise"
	"virtmesh/agent/stewards/roster"
	"virtmesh/agent/stewards/schedule"
	"virtmesh/gossip"
	"virtmesh/storage"
)

// loops returns what runs as long as the agent does: the loops of package roster and
// those of package host.
func (a *agent) loops() ([]stewards.Loop, error) {
	capabilities, err := a.host.eyes.Capabilities(a.ctx)
	if err != nil {
		return nil, err
	}
	info := domain.HostInfo{KVM: capabilities.KVM, Arch: capabilities.Arch, MachineTypes: capabilities.MachineTypes()}
	able := offer.Ability{Allocatable: a.host.mesh.cfg.Allocatable, CPUModels: capabilities.CPUModels, Emulator: info.Emulates()}
	a.judge = &offer.Judge{
		Host: a.host.Name, Ability: func() (offer.Ability, error) { return able, nil }, OnHost: a.claims.OnHost, ReachesLeader: a.store.ReachesLeader,
	}
	recorder, err := a.recorder()
	if err != nil {
		return nil, err
	}
	list := []stewards.Loop{
		{Name: "objects", Run: func(ctx context.Context) error { a.cache.Run(ctx); return nil }},
		{Name: "events", Run: func(ctx context.Context) error { recorder.Run(ctx); return nil }},
	}
	for _, add := range []func() ([]stewards.Loop, error){
		func() ([]stewards.Loop, error) { return a.executorLoops(recorder, info) },
		func() ([]stewards.Loop, error) { return a.publisherLoops(capabilities, info) },
		func() ([]stewards.Loop, error) {
			return roster.Loops(roster.Deps{
				Host: a.host.Name, Store: a.writer("stewards"), Cache: a.cache, Claims: a.claims, Recorder: recorder,
				Stewardship: a.stewardship, Gossip: a.gossip, Members: a.peers, Witness: a.witness,
				Levels: levels{a}, Offers: offers{a}, Acts: operation.Acts{}, Clock: a.host.Now, Logger: a.log, Metrics: prometheus.NewRegistry(),
			})
		},
	} {
		more, err := add()
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	return list, nil
}

// levels is the mesh of an agent as far as its feature level matters.
type levels struct{ agent *agent }

var _ raise.Mesh = levels{}

// FeatureLevel implements raise.Mesh.
func (l levels) FeatureLevel() uint32 { return l.agent.store.FeatureLevel() }

// LevelHosts implements raise.Mesh.
func (l levels) LevelHosts() []level.Host { return l.agent.peers.LevelHosts() }

// RaiseFeatureLevel implements raise.Mesh.
func (l levels) RaiseFeatureLevel(ctx context.Context, to uint32) error {
	return l.agent.store.RaiseFeatureLevel(ctx, to)
}

func (a *agent) recorder() (*objects.Recorder, error) {
	cfg := objects.DefaultRecorderConfig()
	cfg.Store, cfg.Component, cfg.Host, cfg.Logger = a.writer("events"), "virtmesh", a.host.Name, a.log
	cfg.Clock = a.host.Now
	return objects.NewRecorder(cfg)
}

// deps returns what the engine lends to a loop of the host.
func (a *agent) deps(writer string, recorder *objects.Recorder) stewards.Deps {
	return stewards.Deps{
		Store: a.writer(writer), Cache: a.cache, Claims: a.claims, Recorder: recorder, Stewardship: a.stewardship,
		Clock: a.host.Now, Logger: a.log,
		Undeclared: func(err error) { a.host.mesh.History.fail("%s: %v", a.host.Name, err) },
	}
}

func (a *agent) executorLoops(recorder *objects.Recorder, info domain.HostInfo) ([]stewards.Loop, error) {
	machine := &stepped{a.host.machine.Open(), a}
	e, err := executor.New(executor.Config{
		Host: a.host.Name, Store: a.writer("executor"), Confirm: a.store.Confirm, Instances: objects.For[*kubevirtv1.VirtualMachineInstance](a.cache),
		Hypervisor: machine, Volumes: volumes{a}, Network: network{}, GuestDevice: "lo", Firmware: firmware{}, Events: recorder,
		Machine: func() (domain.HostInfo, error) { return info, nil }, LogDir: filepath.Join(a.host.dataDir(), "consoles"), Clock: a.host.Now, BootTime: a.host.bootTime, Logger: a.log,
	})
	if err != nil {
		return nil, err
	}
	a.onClose(func() {
		e.Close()
		machine.Close()
	})
	controller, err := e.Controller(a.deps("executor", recorder))
	if err != nil {
		return nil, err
	}
	sweeper, err := sweep.New(a.deps("sweeper", recorder), a.host.Name, func(ctx context.Context, uid types.UID) (bool, error) {
		domains, err := machine.List(ctx)
		return slices.ContainsFunc(domains, func(d hypervisor.Domain) bool { return d.Owner.UID == string(uid) }), err
	}, a.store.Confirm)
	return []stewards.Loop{
		{Name: "hypervisor", Run: e.Observe},
		{Name: "executor", Run: controller.Run},
		{Name: "stale claims", Run: sweeper.Run},
	}, err
}

func (a *agent) publisherLoops(capabilities hypervisor.Capabilities, info domain.HostInfo) ([]stewards.Loop, error) {
	cfg := publish.DefaultConfig()
	cfg.Host, cfg.Store, cfg.Cache, cfg.Claims, cfg.Logger = a.host.Name, a.writer("publisher"), a.cache, a.claims, a.log
	cfg.Clock = a.host.Now
	cfg.Describe = func() publish.Description {
		return publish.Description{
			Capacity: a.host.mesh.cfg.Allocatable, Allocatable: a.host.mesh.cfg.Allocatable, KVM: capabilities.KVM, CPUModels: capabilities.CPUModels,
			HostModel: capabilities.HostModel, CPUVendor: capabilities.HostVendor, Emulator: info.Emulates(),
			Info: corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: "amd64"},
		}
	}
	publisher, err := publish.New(cfg)
	if err != nil {
		return nil, err
	}
	tell := publish.DefaultTellerConfig()
	tell.Host, tell.Logger, tell.Tell, tell.Free = a.host.Name, a.log, a.peers.SetFacts, a.judge.Free
	facts := gossip.Facts{
		MeshAddr: a.host.address, Version: "v1", FeatureLevel: int(level.Highest), KVM: capabilities.KVM, CPUModels: capabilities.CPUModels,
		Allocatable: publish.GossipResources(a.host.mesh.cfg.Allocatable),
	}
	tell.Facts = func() gossip.Facts { return facts }
	tell.Pools = func() map[string]storage.Space { return nil }
	tell.Images, tell.Nodes = func() []string { return nil }, objects.For[*corev1.Node](a.cache)
	teller, err := publish.NewTeller(tell)
	return []stewards.Loop{{Name: "node", Run: publisher.Run}, {Name: "facts", Run: teller.Run}}, err
}

// offers asks other hosts over the links.
type offers struct{ *agent }

var _ schedule.Offers = offers{}

// Offer implements schedule.Offers.
func (o offers) Offer(ctx context.Context, name string, request claims.OfferRequest) (claims.Offer, error) {
	other := o.host.mesh.links.named(name)
	if other == nil {
		return claims.Offer{}, fmt.Errorf("ask %s: there is no such host", name)
	}
	peer := other.running()
	if peer == nil || !o.host.mesh.links.reach(o.host, other) {
		<-ctx.Done()
		return claims.Offer{}, fmt.Errorf("ask %s: %w", name, ctx.Err())
	}
	if !peer.isMember() {
		return claims.Offer{}, fmt.Errorf("ask %s: it has no copy of the state", name)
	}
	if err := peer.admits(o.host, port.ProtoRPC, false); err != nil {
		return claims.Offer{}, fmt.Errorf("ask %s: %w", name, err)
	}
	select {
	case <-time.After(time.Millisecond):
	case <-ctx.Done():
		return claims.Offer{}, ctx.Err()
	}
	other.cpu.idle()
	if reason := other.refuses().Offer(); reason != "" {
		return claims.Offer{Reason: reason}, nil
	}
	return peer.judge.Offer(ctx, request)
}
