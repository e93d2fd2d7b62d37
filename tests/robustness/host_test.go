package robustness

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/executor"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/hypervisortest"
	"virtmesh/agent/host/publish"
	"virtmesh/agent/host/sweep"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/collect"
	"virtmesh/agent/stewards/schedule"
	"virtmesh/agent/stewards/stewardstest"
	"virtmesh/agent/stewards/vm"
	machine "virtmesh/agent/vmi"
	"virtmesh/gossip"
)

const hostName = "h1"

// host is a mesh of one host, with the loops that a virtual machine meets.
type host struct {
	*stewardstest.World
	journal *journal
	lag     time.Duration
}

// runHost calls test with a host whose caches lag behind the store.
func runHost(t *testing.T, lag time.Duration, test func(h *host)) {
	t.Helper()
	stewardstest.Run(t, func(w *stewardstest.World) {
		h := &host{World: w, journal: &journal{}, lag: lag}
		h.start()
		test(h)
	})
}

// store returns the store as one writer has it.
func (h *host) store(writer string) objects.Store {
	return recorded{lagging{h.Store, h.lag}, writer, h.journal}
}

// deps returns what the host lends to a loop.
func (h *host) deps(cache *objects.Cache, writer string) stewards.Deps {
	h.Helper()
	log := slog.New(slog.DiscardHandler)
	config := objects.DefaultRecorderConfig()
	config.Store, config.Component, config.Host, config.Logger = h.store(writer), writer, hostName, log
	recorder, err := objects.NewRecorder(config)
	h.Check(err)
	deps := h.Host(hostName).Deps
	deps.Store, deps.Cache, deps.Claims, deps.Recorder = stewards.Guard(h.store(writer)), cache, claims.NewCache(cache, log), recorder
	return deps
}

// start starts the loops.
func (h *host) start() {
	h.Helper()
	config := objects.DefaultCacheConfig()
	config.Store, config.Logger = h.store("cache"), slog.New(slog.DiscardHandler)
	cache, err := objects.NewCache(config)
	h.Check(err)
	h.Run(func(ctx context.Context) error { cache.Run(ctx); return nil })
	h.startPublisher(h.deps(cache, "publisher"))
	h.startVM(h.deps(cache, "vm"))
	h.startPlacement(h.deps(cache, "placement"))
	h.startExecutor(h.deps(cache, "executor"))
	h.startCollectors(h.deps(cache, "collector"))
	time.Sleep(time.Minute)
	synctest.Wait()
}

func (h *host) startPublisher(deps stewards.Deps) {
	config := publish.DefaultConfig()
	config.Host, config.Store, config.Cache, config.Claims, config.Logger = hostName, deps.Store, deps.Cache, deps.Claims, deps.Logger
	config.Describe = func() publish.Description {
		room := machine.Resources{CPUMilli: 8000, MemoryBytes: 8 << 30, EphemeralBytes: 100 << 30}
		return publish.Description{
			Capacity: room, Allocatable: room, KVM: true,
			Info: corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: "amd64"},
		}
	}
	p, err := publish.New(config)
	h.Check(err)
	h.Run(p.Run)
}

func (h *host) startVM(deps stewards.Deps) {
	config := vm.DefaultConfig()
	config.Deps = deps
	c, err := vm.New(config)
	h.Check(err)
	h.Run(c.Run)
}

func (h *host) startPlacement(deps stewards.Deps) {
	config := schedule.DefaultConfig()
	config.Deps, config.Volumes = deps, schedule.FromClaims(deps.Cache)
	config.View = schedule.NewView(deps.Store, deps.Cache, deps.Claims, facts{})
	c, err := schedule.New(config)
	h.Check(err)
	h.Run(func(ctx context.Context) error { config.View.Run(ctx, func() {}); return nil })
	h.Run(c.Run)
}

func (h *host) startExecutor(deps stewards.Deps) {
	e, err := executor.New(executor.Config{
		Host: hostName, Store: deps.Store, Instances: objects.For[*kubevirtv1.VirtualMachineInstance](deps.Cache),
		Hypervisor: hypervisortest.NewFake(), Volumes: volumes{}, Network: network{}, Firmware: firmware{}, Events: deps.Recorder,
		Machine: domain.HostInfo{KVM: true, Arch: "x86_64"}, LogDir: h.TempDir(), Logger: deps.Logger,
	})
	h.Check(err)
	c, err := e.Controller(deps)
	h.Check(err)
	h.Run(e.Observe)
	h.Run(func(ctx context.Context) error {
		defer e.Close()
		return c.Run(ctx)
	})
}

func (h *host) startCollectors(deps stewards.Deps) {
	garbage, err := collect.New(deps)
	h.Check(err)
	h.Run(garbage.Run)
	epochs, err := collect.NewEpochs(deps)
	h.Check(err)
	h.Run(epochs.Run)
	sweeper, err := sweep.New(deps, hostName, func(context.Context, types.UID) (bool, error) { return true, nil })
	h.Check(err)
	h.Run(sweeper.Run)
}

// facts are those of the one host.
type facts struct{}

var _ schedule.Facts = facts{}

// Members implements schedule.Facts.
func (facts) Members() []gossip.Member {
	return []gossip.Member{{Name: hostName, State: gossip.Alive, Facts: gossip.Facts{KVM: true}}}
}

// Subscribe implements schedule.Facts.
func (facts) Subscribe(func()) (cancel func()) { return func() {} }

// volumes gives every volume a file, after the time that a copy takes.
type volumes struct{}

var _ executor.Volumes = volumes{}

// Prepare implements executor.Volumes.
func (volumes) Prepare(_ context.Context, vmi *kubevirtv1.VirtualMachineInstance) (map[string]domain.Disk, func(), error) {
	time.Sleep(30 * time.Millisecond)
	disks := map[string]domain.Disk{}
	for _, volume := range vmi.Spec.Volumes {
		disks[volume.Name] = domain.Disk{Type: domain.DiskFile, Path: "/disks/" + volume.Name, Format: "qcow2"}
	}
	return disks, func() {}, nil
}

// Remove implements executor.Volumes.
func (volumes) Remove(context.Context, hypervisor.Ref) error { return nil }

// ImageDigests implements executor.Volumes.
func (volumes) ImageDigests(hypervisor.Ref) (map[string]string, error) {
	return map[string]string{"root": "sha256:12"}, nil
}

// ClaimInfo implements executor.Volumes.
func (volumes) ClaimInfo(context.Context, *kubevirtv1.VirtualMachineInstance) (map[string]*kubevirtv1.PersistentVolumeClaimInfo, error) {
	return nil, nil
}

// Detach implements executor.Volumes.
func (volumes) Detach(context.Context, *objects.Tx, *kubevirtv1.VirtualMachineInstance) error {
	return nil
}

// Owners implements executor.Volumes.
func (volumes) Owners() ([]hypervisor.Ref, error) { return nil, nil }

// network gives every interface a tap.
type network struct{}

var _ executor.Network = network{}

// Connect implements executor.Network.
func (network) Connect(_ context.Context, vmi *kubevirtv1.VirtualMachineInstance) (map[string]domain.NIC, error) {
	nics := map[string]domain.NIC{}
	for _, nic := range vmi.Spec.Domain.Devices.Interfaces {
		nics[nic.Name] = domain.NIC{TapDevice: "vm-tap", MAC: "02:00:00:00:00:01"}
	}
	return nics, nil
}

// Interfaces implements executor.Network.
func (network) Interfaces(vmi *kubevirtv1.VirtualMachineInstance) []kubevirtv1.VirtualMachineInstanceNetworkInterface {
	var list []kubevirtv1.VirtualMachineInstanceNetworkInterface
	for _, nic := range vmi.Spec.Domain.Devices.Interfaces {
		list = append(list, kubevirtv1.VirtualMachineInstanceNetworkInterface{
			Name: nic.Name, MAC: "02:00:00:00:00:01", IP: "10.64.0.2", IPs: []string{"10.64.0.2"}, InfoSource: "domain", LinkState: "up",
		})
	}
	return list
}

// Release implements executor.Network.
func (network) Release(hypervisor.Ref) error { return nil }

// firmware keeps nothing.
type firmware struct{}

var _ executor.Firmware = firmware{}

// Variables implements executor.Firmware.
func (firmware) Variables(string, bool) string { return "" }

// newMachine returns a machine as the API stores it.
func newMachine(name string) *kubevirtv1.VirtualMachine {
	strategy, memory := kubevirtv1.RunStrategyAlways, resource.MustParse("64Mi")
	vm := &kubevirtv1.VirtualMachine{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: kubevirtv1.VirtualMachineSpec{RunStrategy: &strategy, Template: &kubevirtv1.VirtualMachineInstanceTemplateSpec{
			Spec: kubevirtv1.VirtualMachineInstanceSpec{
				Domain: kubevirtv1.DomainSpec{Memory: &kubevirtv1.Memory{Guest: &memory}, Devices: kubevirtv1.Devices{
					Disks: []kubevirtv1.Disk{{Name: "root", DiskDevice: kubevirtv1.DiskDevice{Disk: &kubevirtv1.DiskTarget{Bus: "virtio"}}}},
					Interfaces: []kubevirtv1.Interface{{
						Name: "default", InterfaceBindingMethod: kubevirtv1.InterfaceBindingMethod{Masquerade: &kubevirtv1.InterfaceMasquerade{}},
					}},
				}},
				Networks: []kubevirtv1.Network{*kubevirtv1.DefaultPodNetwork()},
				Volumes: []kubevirtv1.Volume{{Name: "root", VolumeSource: kubevirtv1.VolumeSource{
					ContainerDisk: &kubevirtv1.ContainerDiskSource{Image: "example/disk"}}}},
			},
		}},
	}
	objects.KindFor[*kubevirtv1.VirtualMachine]().Default(machine.DefaultDefaults(), vm)
	return vm
}
