package executor

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
)

// fakeVolumes gives every volume a file, unless it is to fail.
type fakeVolumes struct {
	fail error
	// pull, if set, is what a Prepare waits for, besides its context.
	pull func(context.Context) error
	// claims are those of the volumes, and unreadable why they cannot be told.
	claims     map[string]*kubevirtv1.PersistentVolumeClaimInfo
	unreadable error
	// stuck is why volumes can neither be detached nor listed.
	stuck error

	mu       sync.Mutex
	prepared int
	released int
	removed  []hypervisor.Ref
	// left are the instances that have files.
	left []hypervisor.Ref
}

func (v *fakeVolumes) Prepare(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (map[string]domain.Disk, func(), error) {
	if v.fail != nil {
		return nil, nil, v.fail
	}
	if v.pull != nil {
		if err := v.pull(ctx); err != nil {
			return nil, nil, err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.prepared++
	if !slices.Contains(v.left, refOf(vmi)) {
		v.left = append(v.left, refOf(vmi))
	}
	disks := map[string]domain.Disk{}
	for _, volume := range vmi.Spec.Volumes {
		disks[volume.Name] = domain.Disk{Type: domain.DiskFile, Path: "/disks/" + volume.Name, Format: "qcow2"}
	}
	return disks, func() { v.mu.Lock(); defer v.mu.Unlock(); v.released++ }, nil
}

func (v *fakeVolumes) User(context.Context, hypervisor.Ref) (domain.User, error) {
	return domain.User{UID: ownUser, GID: testUser}, nil
}

func (v *fakeVolumes) AgentSocket(_ context.Context, ref hypervisor.Ref) (string, error) {
	return "/instances/" + ref.UID + "/agent.sock", nil
}

func (v *fakeVolumes) Remove(_ context.Context, ref hypervisor.Ref) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.removed = append(v.removed, ref)
	v.left = slices.DeleteFunc(v.left, func(r hypervisor.Ref) bool { return r == ref })
	return nil
}

func (v *fakeVolumes) ImageDigests(ref hypervisor.Ref) (map[string]string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !slices.Contains(v.left, ref) {
		return nil, errors.New("no disks")
	}
	return map[string]string{"root": "sha256:12"}, nil
}

func (v *fakeVolumes) ClaimInfo(_ context.Context, vmi *kubevirtv1.VirtualMachineInstance) (map[string]*kubevirtv1.PersistentVolumeClaimInfo, error) {
	return v.claims, v.unreadable
}

func (v *fakeVolumes) Detach(context.Context, *objects.Tx, *kubevirtv1.VirtualMachineInstance) error {
	return v.stuck
}

func (v *fakeVolumes) Owners() ([]hypervisor.Ref, error) {
	if v.stuck != nil {
		return nil, v.stuck
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.left), nil
}

// fakeNetwork gives every interface a tap.
type fakeNetwork struct {
	fail     error
	released []hypervisor.Ref
	// leases are the instances that have addresses.
	leases map[hypervisor.Ref]bool
	// address, if set, is the first card's.
	address string
}

func (n *fakeNetwork) Connect(_ context.Context, vmi *kubevirtv1.VirtualMachineInstance) (map[string]domain.NIC, error) {
	if n.fail != nil {
		return nil, n.fail
	}
	if n.leases == nil {
		n.leases = map[hypervisor.Ref]bool{}
	}
	n.leases[refOf(vmi)] = true
	nics := map[string]domain.NIC{}
	for _, nic := range vmi.Spec.Domain.Devices.Interfaces {
		nics[nic.Name] = domain.NIC{TapDevice: "vm-tap", MAC: testMAC}
	}
	return nics, nil
}

func (n *fakeNetwork) Interfaces(vmi *kubevirtv1.VirtualMachineInstance) []kubevirtv1.VirtualMachineInstanceNetworkInterface {
	var list []kubevirtv1.VirtualMachineInstanceNetworkInterface
	for _, nic := range vmi.Spec.Domain.Devices.Interfaces {
		list = append(list, kubevirtv1.VirtualMachineInstanceNetworkInterface{
			Name: nic.Name, MAC: testMAC, InfoSource: "domain", PodInterfaceName: "vm-tap", QueueCount: 1, LinkState: "up",
		})
	}
	if n.address != "" && len(list) > 0 {
		list[0].IP, list[0].IPs = n.address, []string{n.address}
	}
	return list
}

func (n *fakeNetwork) Release(ref hypervisor.Ref) error {
	n.released = append(n.released, ref)
	delete(n.leases, ref)
	return nil
}

// keptFirmware is the folder of what machines keep.
type keptFirmware struct {
	dir string
	// started are the machines whose TPM is known to have run, and full why no more can
	// be recorded.
	started map[string]bool
	full    error
}

func (f *keptFirmware) Variables(machine string, _ bool) string { return f.dir + "/" + machine }

func (f *keptFirmware) TPMStarted(_ context.Context, machine string) error {
	if f.full == nil {
		f.started[machine] = true
	}
	return f.full
}

// unreadable is a store that can be cut off from the mesh.
type unreadable struct {
	*objectstest.Store
	cut atomic.Bool
}

func (s *unreadable) Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error) {
	if s.cut.Load() {
		return raftstore.TxnResult{}, raftstore.ErrNoLeader
	}
	return s.Store.Commit(ctx, t)
}

func (s *unreadable) Get(ctx context.Context, key string, o raftstore.ReadOptions) (raftstore.Record, uint64, error) {
	if s.cut.Load() && o.Consistency != raftstore.Local {
		return raftstore.Record{}, 0, raftstore.ErrNoLeader
	}
	return s.Store.Get(ctx, key, o)
}
