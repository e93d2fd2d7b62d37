package hypervisortest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"virtmesh/agent/host/hypervisor"
)

// fakeSizes are what a Resizer changes.
type fakeSizes struct {
	vcpus, maxVCPUs int
	// booted is the memory the guest booted with, memory what it has now.
	booted, memory int64
	limit          int64 // of the emulator's memory; 0 for none
	disks          map[string]int64
}

// write puts the number of CPUs into a definition.
func (s fakeSizes) write(text string) string {
	from := strings.Index(text, "<vcpu")
	end := strings.Index(text, "</vcpu>")
	if from < 0 || end < from {
		return text
	}
	return text[:from] + fmt.Sprintf("<vcpu current='%d'>%d", s.vcpus, s.maxVCPUs) + text[end:]
}

// SetVCPUs implements hypervisor.Resizer. The guest does not let go of a CPU.
func (f *Fake) SetVCPUs(ctx context.Context, ref hypervisor.Ref, count int) error {
	return f.onRunning(ctx, "SetVCPUs", ref, func(_ *Machine, d *fakeDomain) error {
		switch {
		case count < 1 || count > d.sizes.maxVCPUs:
			return fmt.Errorf("%w: %d CPUs are not between 1 and the domain's %d", hypervisor.ErrInvalid, count, d.sizes.maxVCPUs)
		case count < d.sizes.vcpus:
			return hypervisor.ErrRefused
		}
		d.sizes.vcpus = count
		return nil
	})
}

// SetMemory implements hypervisor.Resizer. The guest takes and gives what it is asked.
func (f *Fake) SetMemory(ctx context.Context, ref hypervisor.Ref, bytes int64) error {
	return f.onRunning(ctx, "SetMemory", ref, func(_ *Machine, d *fakeDomain) error {
		if bytes <= 0 {
			return fmt.Errorf("%w: %d bytes of memory", hypervisor.ErrInvalid, bytes)
		}
		if bytes <= d.sizes.booted {
			d.sizes.memory = bytes
			return nil
		}
		i := slices.IndexFunc(d.devices, func(v fakeDevice) bool { return v.kind == "memory" && v.block > 0 })
		if i < 0 {
			return fmt.Errorf("%w: %d bytes are more than the %d that the guest booted with", hypervisor.ErrInvalid, bytes, d.sizes.booted)
		}
		device := &d.devices[i]
		requested := (bytes - d.sizes.booted + device.block - 1) / device.block * device.block
		if requested > device.size {
			return fmt.Errorf("%w: %d bytes are more than the domain's %d", hypervisor.ErrInvalid, bytes, d.sizes.booted+device.size)
		}
		if more := requested - device.requested; more > 0 && d.sizes.limit > 0 {
			d.sizes.limit += more
		}
		device.requested = requested
		d.sizes.memory = d.sizes.booted + requested
		return nil
	})
}

// LimitMemory implements hypervisor.Resizer.
func (f *Fake) LimitMemory(ctx context.Context, ref hypervisor.Ref, bytes int64) error {
	return f.onRunning(ctx, "LimitMemory", ref, func(_ *Machine, d *fakeDomain) error {
		if bytes <= 0 {
			return fmt.Errorf("%w: %d bytes of memory", hypervisor.ErrInvalid, bytes)
		}
		d.sizes.limit = bytes
		return nil
	})
}

// ResizeBlock implements hypervisor.Resizer.
func (f *Fake) ResizeBlock(ctx context.Context, ref hypervisor.Ref, volume string, bytes int64) error {
	return f.onRunning(ctx, "ResizeBlock", ref, func(_ *Machine, d *fakeDomain) error {
		i := d.device(volume)
		if i < 0 || d.devices[i].kind != "disk" {
			return fmt.Errorf("%w: no disk of volume %s", hypervisor.ErrNoDevice, volume)
		}
		if was := d.sizes.disk(volume); bytes < was {
			return fmt.Errorf("%w: the disk of volume %s has %d bytes and cannot shrink to %d", hypervisor.ErrInvalid, volume, was, bytes)
		}
		d.sizes.disks[volume] = bytes
		return nil
	})
}

// disk returns the size of a volume's disk, which is that of BootDisk at first.
func (s fakeSizes) disk(volume string) int64 {
	if size, ok := s.disks[volume]; ok {
		return size
	}
	return bootDiskSize
}
