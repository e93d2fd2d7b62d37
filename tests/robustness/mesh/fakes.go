package mesh

import (
	"context"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/executor"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/hypervisortest"
	"virtmesh/agent/objects"
)

// stepped is the hypervisor as an agent has it. Before each call that changes a guest and
// after it is a step of the agent.
type stepped struct {
	*hypervisortest.Fake
	agent *agent
}

var _ hypervisor.Hypervisor = (*stepped)(nil)

// act does something that others notice, with a step of the agent before it and one after
// it. What it did stays done if the agent is killed at the second one.
func (a *agent) act(do func() error) error {
	if err := a.step(); err != nil {
		return err
	}
	err := do()
	if killed := a.step(); killed != nil {
		return killed
	}
	return err
}

// Start implements hypervisor.Lifecycle.
func (s *stepped) Start(ctx context.Context, xml string, opts hypervisor.StartOptions) (d hypervisor.Domain, err error) {
	err = s.agent.act(func() error {
		if err := s.agent.host.refuses().Start(xml); err != nil {
			return err
		}
		if d, err = s.Fake.Start(ctx, xml, opts); err == nil {
			h := s.agent.host
			h.mesh.History.note(h.Name, "starts %s, epoch %d", d.Owner.Ref, d.Owner.Epoch)
			h.mesh.History.noteGuests(h.mesh.links.all())
		}
		return err
	})
	return d, err
}

// Resume implements hypervisor.Lifecycle.
func (s *stepped) Resume(ctx context.Context, ref hypervisor.Ref) error {
	return s.agent.act(func() error { return s.Fake.Resume(ctx, ref) })
}

// Shutdown implements hypervisor.Lifecycle.
func (s *stepped) Shutdown(ctx context.Context, ref hypervisor.Ref) error {
	return s.agent.act(func() error { return s.Fake.Shutdown(ctx, ref) })
}

// Destroy implements hypervisor.Lifecycle.
func (s *stepped) Destroy(ctx context.Context, ref hypervisor.Ref) error {
	return s.agent.act(func() error {
		s.agent.host.mesh.History.note(s.agent.host.Name, "destroys %s", ref)
		return s.Fake.Destroy(ctx, ref)
	})
}

// Undefine implements hypervisor.Lifecycle.
func (s *stepped) Undefine(ctx context.Context, ref hypervisor.Ref, opts hypervisor.UndefineOptions) error {
	return s.agent.act(func() error { return s.Fake.Undefine(ctx, ref, opts) })
}

// SetRecord implements hypervisor.Recorder.
func (s *stepped) SetRecord(ctx context.Context, ref hypervisor.Ref, name, value string) error {
	return s.agent.act(func() error { return s.Fake.SetRecord(ctx, ref, name, value) })
}

// volumes gives every volume a file, after the time that a copy takes.
type volumes struct{ agent *agent }

var _ executor.Volumes = volumes{}

// Prepare implements executor.Volumes.
func (v volumes) Prepare(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (map[string]domain.Disk, func(), error) {
	if err := v.agent.step(); err != nil {
		return nil, nil, err
	}
	select {
	case <-time.After(30 * time.Millisecond):
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	if err := v.agent.host.refuses().Prepare(vmi); err != nil {
		return nil, nil, err
	}
	disks := map[string]domain.Disk{}
	for _, volume := range vmi.Spec.Volumes {
		disks[volume.Name] = domain.Disk{Type: domain.DiskFile, Path: "/disks/" + volume.Name, Format: "qcow2"}
	}
	return disks, func() {}, nil
}

// User implements executor.Volumes. Nothing runs, so all guests may have one.
func (volumes) User(context.Context, hypervisor.Ref) (domain.User, error) {
	return domain.User{UID: 1_900_000_000}, nil
}

// AgentSocket implements executor.Volumes.
func (volumes) AgentSocket(_ context.Context, ref hypervisor.Ref) (string, error) {
	return "/instances/" + ref.UID + "/agent", nil
}

// Remove implements executor.Volumes.
func (v volumes) Remove(context.Context, hypervisor.Ref) error { return v.agent.step() }

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

// TPMStarted implements executor.Firmware.
func (firmware) TPMStarted(context.Context, string) error { return nil }
