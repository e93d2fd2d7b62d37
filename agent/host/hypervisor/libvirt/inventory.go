package libvirt

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

// List implements hypervisor.Inventory.
func (d *Driver) List(ctx context.Context) ([]hypervisor.Domain, error) {
	return call(ctx, d, d.queries, "list domains", nil, func(conn *libvirt.Connect) ([]hypervisor.Domain, error) {
		all, err := conn.ListAllDomains(0)
		if err != nil {
			return nil, err
		}
		var ours []hypervisor.Domain
		for i := range all {
			domain, err := d.describe(&all[i])
			_ = all[i].Free()
			switch {
			case err == nil:
				ours = append(ours, domain)
			case errors.Is(err, hypervisor.ErrNotFound), is(err, libvirt.ERR_NO_DOMAIN):
				// It does not belong to virtmesh, or was undefined after it was listed.
			default:
				freeAll(all[i+1:])
				return nil, err
			}
		}
		return ours, nil
	})
}

func freeAll(domains []libvirt.Domain) {
	for i := range domains {
		_ = domains[i].Free()
	}
}

// Get implements hypervisor.Inventory.
func (d *Driver) Get(ctx context.Context, ref hypervisor.Ref) (hypervisor.Domain, error) {
	return onDomain(ctx, d, d.queries, "get", ref, nil, func(_ *libvirt.Connect, dom *libvirt.Domain) (hypervisor.Domain, error) {
		return d.describe(dom)
	})
}

// describe reads what the contract says about a domain.
func (d *Driver) describe(dom *libvirt.Domain) (hypervisor.Domain, error) {
	owner, err := d.ownerOf(dom)
	if err != nil {
		return hypervisor.Domain{}, err
	}
	out := hypervisor.Domain{Owner: owner}
	if out.UUID, err = dom.GetUUIDString(); err != nil {
		return out, err
	}
	state, reason, err := dom.GetState()
	if err != nil {
		return out, err
	}
	out.State, out.Reason = domainState(state, reason)
	if out.Records, err = d.recordsOf(dom); err != nil {
		return out, err
	}
	if out.Persistent, err = dom.IsPersistent(); err != nil {
		return out, err
	}
	if out.State == hypervisor.StateShutoff {
		return out, nil
	}
	text, err := dom.GetXMLDesc(0)
	if err != nil {
		return out, err
	}
	parsed := &libvirtxml.Domain{}
	if err := parsed.Unmarshal(text); err != nil {
		return out, err
	}
	out.AgentConnected = agentConnected(parsed)
	out.Disks, out.MemoryBytes = diskTargets(parsed), currentMemory(parsed)
	out.User, out.MemoryLimit = emulatorUser(parsed), memoryLimit(parsed)
	return out, nil
}

// emulatorUser returns the uid in the label by which libvirt started the domain's
// emulator; 0 if there is none.
func emulatorUser(domain *libvirtxml.Domain) uint32 {
	for _, label := range domain.SecLabel {
		if label.Model != "dac" {
			continue
		}
		user, _, _ := strings.Cut(strings.TrimPrefix(label.Label, "+"), ":")
		if uid, err := strconv.ParseUint(user, 10, 32); err == nil {
			return uint32(uid)
		}
	}
	return 0
}

// diskTargets returns the targets of the domain's disks by volume.
func diskTargets(domain *libvirtxml.Domain) map[string]string {
	if domain.Devices == nil {
		return nil
	}
	var targets map[string]string
	for _, disk := range domain.Devices.Disks {
		volume := instanceName(disk.Alias)
		if volume == "" || disk.Target == nil {
			continue
		}
		if targets == nil {
			targets = map[string]string{}
		}
		targets[volume] = disk.Target.Dev
	}
	return targets
}

// currentMemory is the memory that the balloon leaves to the guest, in bytes. libvirt
// always writes it in KiB.
func currentMemory(domain *libvirtxml.Domain) int64 {
	if domain.CurrentMemory == nil {
		return 0
	}
	return int64(domain.CurrentMemory.Value) << 10
}

// agentConnected reports whether the guest has the agent's channel open.
func agentConnected(domain *libvirtxml.Domain) bool {
	if domain.Devices == nil {
		return false
	}
	for _, c := range domain.Devices.Channels {
		if c.Target == nil || c.Target.VirtIO == nil {
			continue
		}
		if c.Target.VirtIO.Name == hypervisor.AgentChannel && c.Target.VirtIO.State == "connected" {
			return true
		}
	}
	return false
}
