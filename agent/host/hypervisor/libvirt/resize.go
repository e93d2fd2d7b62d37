package libvirt

import (
	"context"
	"encoding/xml"
	"fmt"
	"slices"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

// kib is the unit in which libvirt counts memory.
const kib = 1024

// SetVCPUs implements hypervisor.Resizer.
func (d *Driver) SetVCPUs(ctx context.Context, ref hypervisor.Ref, count int) error {
	return d.act(ctx, d.acts, "set the CPUs of", ref, func(dom *libvirt.Domain) error {
		if active, err := dom.IsActive(); err != nil || !active {
			return orNotRunning(err)
		}
		most, err := dom.GetVcpusFlags(libvirt.DOMAIN_VCPU_LIVE | libvirt.DOMAIN_VCPU_MAXIMUM)
		if err != nil {
			return err
		}
		if count < 1 || count > int(most) {
			return fmt.Errorf("%w: %d CPUs are not between 1 and the domain's %d", hypervisor.ErrInvalid, count, most)
		}
		now, err := dom.GetVcpusFlags(libvirt.DOMAIN_VCPU_LIVE)
		if err != nil {
			return err
		}
		if count != int(now) {
			err = dom.SetVcpusFlags(uint(count), libvirt.DOMAIN_VCPU_LIVE)
			if err != nil && count < int(now) {
				return fmt.Errorf("%w: it keeps its CPUs: %w", hypervisor.ErrRefused, err)
			}
			if err != nil {
				return err
			}
		}
		return dom.SetVcpusFlags(uint(count), libvirt.DOMAIN_VCPU_CONFIG)
	})
}

// memoryXML holds the parts of a definition that concern the guest's memory.
type memoryXML struct {
	XMLName xml.Name `xml:"domain"`
	Total   sizeXML  `xml:"memory"`
	Tune    struct {
		Limit sizeXML `xml:"hard_limit"`
	} `xml:"memtune"`
	Devices struct {
		Memory []deviceXML `xml:"memory"`
	} `xml:"devices"`
}

// booted returns the memory that the guest has without its memory devices, in KiB.
func (m memoryXML) booted() int64 {
	out := m.Total.KiB
	for _, device := range m.Devices.Memory {
		out -= device.Target.Size.KiB
	}
	return out
}

// SetMemory implements hypervisor.Resizer.
func (d *Driver) SetMemory(ctx context.Context, ref hypervisor.Ref, bytes int64) error {
	if bytes <= 0 {
		return fmt.Errorf("set the memory of %s: %w: %d bytes", ref, hypervisor.ErrInvalid, bytes)
	}
	return d.act(ctx, d.acts, "set the memory of", ref, func(dom *libvirt.Domain) error {
		if active, err := dom.IsActive(); err != nil || !active {
			return orNotRunning(err)
		}
		text, err := dom.GetXMLDesc(0)
		if err != nil {
			return err
		}
		var have memoryXML
		if err := xml.Unmarshal([]byte(text), &have); err != nil {
			return fmt.Errorf("parse domain definition: %w", err)
		}
		want := (bytes + kib - 1) / kib
		i := slices.IndexFunc(have.Devices.Memory, func(v deviceXML) bool { return v.Model == "virtio-mem" })
		if i < 0 {
			if want > have.booted() {
				return fmt.Errorf("%w: %d bytes are more than the %d that the guest booted with", hypervisor.ErrInvalid, bytes, have.booted()*kib)
			}
			return inflate(dom, want)
		}
		device := have.Devices.Memory[i]
		plugged, err := pluggedMemory(want-have.booted(), device)
		if err != nil {
			return fmt.Errorf("%w: %d bytes are more than the domain's %d", err, bytes, (have.booted()+device.Target.Size.KiB)*kib)
		}
		if more := plugged - device.Target.Requested.KiB; more > 0 && have.Tune.Limit.KiB > 0 {
			if err := setMemoryLimit(dom, uint64(have.Tune.Limit.KiB+more)); err != nil {
				return err
			}
		}
		if plugged != device.Target.Requested.KiB {
			if err := requestMemory(dom, text, device.Alias.Name, plugged); err != nil {
				return err
			}
		}
		if want < have.booted() {
			return inflate(dom, want)
		}
		return nil
	})
}

// inflate sets the balloon so that the guest has want KiB of memory.
func inflate(dom *libvirt.Domain, want int64) error {
	return dom.SetMemoryFlags(uint64(want), libvirt.DOMAIN_MEM_LIVE|libvirt.DOMAIN_MEM_CONFIG)
}

// pluggedMemory rounds the size that a memory device is to provide to whole blocks, in
// KiB.
func pluggedMemory(want int64, device deviceXML) (int64, error) {
	block := max(1, device.Target.Block.KiB)
	out := (max(0, want) + block - 1) / block * block
	if out > device.Target.Size.KiB {
		return 0, hypervisor.ErrInvalid
	}
	return out, nil
}

// requestMemory asks a memory device to provide requested KiB to the guest. text is the
// live definition, alias names the device.
func requestMemory(dom *libvirt.Domain, text, alias string, requested int64) error {
	domain := &libvirtxml.Domain{}
	if err := domain.Unmarshal(text); err != nil {
		return fmt.Errorf("parse domain definition: %w", err)
	}
	for _, device := range domain.Devices.Memorydevs {
		if device.Alias == nil || device.Alias.Name != alias || device.Target == nil {
			continue
		}
		device.Target.Requested = &libvirtxml.DomainMemorydevTargetRequested{Value: uint(requested), Unit: "KiB"}
		changed, err := device.Marshal()
		if err != nil {
			return fmt.Errorf("write memory device: %w", err)
		}
		return updateDevice(dom, changed, libvirt.DOMAIN_DEVICE_MODIFY_LIVE|libvirt.DOMAIN_DEVICE_MODIFY_CONFIG)
	}
	return fmt.Errorf("%w: %s", hypervisor.ErrNoDevice, alias)
}
