package libvirt

import (
	"context"
	"fmt"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

// splitMemoryLimit takes the limit of memory, in KiB, out of a definition; 0 if it has none.
//
// The limit is set once the guest runs. With a limit in the definition, libvirt would also
// allow the emulator to lock as much memory, instead of what its devices need; in a container
// it may not even do that, and the guest would not start. And a host whose libvirt has no
// cgroup controller for memory would not start it either.
func splitMemoryLimit(xml string) (plain string, limit uint64, err error) {
	definition := &libvirtxml.Domain{}
	if err := definition.Unmarshal(xml); err != nil {
		return "", 0, fmt.Errorf("%w: %w", hypervisor.ErrInvalid, err)
	}
	tune := definition.MemoryTune
	if tune == nil || tune.HardLimit == nil {
		return xml, 0, nil
	}
	if tune.HardLimit.Unit != "KiB" {
		return "", 0, fmt.Errorf("%w: the limit of memory is in %q and not in KiB", hypervisor.ErrInvalid, tune.HardLimit.Unit)
	}
	limit, tune.HardLimit = tune.HardLimit.Value, nil
	if plain, err = definition.Marshal(); err != nil {
		return "", 0, fmt.Errorf("encode the domain: %w", err)
	}
	return plain, limit, nil
}

// memoryLimit returns the limit of memory of a running domain's emulator, in bytes; 0 if it has none.
func memoryLimit(domain *libvirtxml.Domain) int64 {
	if tune := domain.MemoryTune; tune != nil && tune.HardLimit != nil {
		return int64(tune.HardLimit.Value) * kib // libvirt always writes KiB
	}
	return 0
}

// LimitMemory implements hypervisor.Resizer.
func (d *Driver) LimitMemory(ctx context.Context, ref hypervisor.Ref, bytes int64) error {
	if bytes <= 0 {
		return fmt.Errorf("limit the memory of %s: %w: %d bytes", ref, hypervisor.ErrInvalid, bytes)
	}
	return d.act(ctx, d.acts, "limit the memory of", ref, func(dom *libvirt.Domain) error {
		if active, err := dom.IsActive(); err != nil || !active {
			return orNotRunning(err)
		}
		return setMemoryLimit(dom, uint64(bytes/kib))
	})
}

// setMemoryLimit limits the memory of a running domain's emulator to so many KiB.
func setMemoryLimit(dom *libvirt.Domain, limit uint64) error {
	return dom.SetMemoryParameters(&libvirt.DomainMemoryParameters{HardLimitSet: true, HardLimit: limit}, libvirt.DOMAIN_AFFECT_LIVE)
}

// limitMemory limits the memory of a running domain's emulator to so many KiB; 0 leaves it as
// it is. A host where that is not possible runs its guests all the same, and its Node says so.
func (d *Driver) limitMemory(conn *libvirt.Connect, ref hypervisor.Ref, limit uint64) {
	if limit == 0 {
		return
	}
	dom, err := d.lookup(conn, ref)
	if err == nil {
		defer dom.Free()
		err = setMemoryLimit(dom, limit)
	}
	if err != nil {
		d.log.Warn("the memory of a guest's emulator is not limited", "instance", ref.String(), "err", err)
	}
}
