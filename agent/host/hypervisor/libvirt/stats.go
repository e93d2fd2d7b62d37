package libvirt

import (
	"context"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// Stats implements hypervisor.Observer. It is one call for all domains; a domain that
// is busy gives what can be told without waiting for it.
func (d *Driver) Stats(ctx context.Context) ([]hypervisor.Stats, error) {
	return call(ctx, d, d.queries, "read statistics", nil, func(conn *libvirt.Connect) ([]hypervisor.Stats, error) {
		const types = libvirt.DOMAIN_STATS_STATE | libvirt.DOMAIN_STATS_CPU_TOTAL | libvirt.DOMAIN_STATS_BALLOON |
			libvirt.DOMAIN_STATS_VCPU | libvirt.DOMAIN_STATS_INTERFACE | libvirt.DOMAIN_STATS_BLOCK
		const flags = libvirt.CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
		all, err := conn.GetAllDomainStats(nil, types, flags)
		if err != nil {
			return nil, err
		}
		var ours []hypervisor.Stats
		for i := range all {
			stats, err := d.stats(&all[i])
			_ = all[i].Domain.Free()
			if err == nil {
				ours = append(ours, stats)
			}
		}
		return ours, nil
	})
}

// stats translates the counters of one domain. An error means that the domain is not
// ours or gone.
func (d *Driver) stats(s *libvirt.DomainStats) (hypervisor.Stats, error) {
	uuid, err := s.Domain.GetUUIDString()
	if err != nil {
		return hypervisor.Stats{}, err
	}
	owner, ok := d.owners.get(uuid)
	if !ok {
		if owner, err = d.ownerOf(s.Domain); err != nil {
			return hypervisor.Stats{}, err
		}
	}
	names, err := d.names.of(s, uuid)
	if err != nil {
		return hypervisor.Stats{}, err
	}
	out := hypervisor.Stats{Ref: owner.Ref, State: hypervisor.StateUnknown}
	if s.State != nil {
		out.State, _ = domainState(s.State.State, s.State.Reason)
	}
	if s.Cpu != nil {
		out.CPU = hypervisor.CPUStats{Time: s.Cpu.Time, User: s.Cpu.User, System: s.Cpu.System}
	}
	for i, v := range s.Vcpu {
		if v.StateSet && v.State == libvirt.VCPU_OFFLINE {
			continue // room for one more
		}
		out.CPU.VCPUs = append(out.CPU.VCPUs, hypervisor.VCPUStats{
			ID: uint(i), Running: v.State == libvirt.VCPU_RUNNING, Time: v.Time, Wait: v.Wait, Delay: v.Delay,
		})
	}
	out.Memory = memoryStats(s.Balloon)
	for _, b := range s.Block {
		out.Disks = append(out.Disks, diskStats(b, names))
	}
	for _, n := range s.Net {
		out.NICs = append(out.NICs, nicStats(n, names))
	}
	return out, nil
}

// memoryStats converts from libvirt's KiB.
func memoryStats(b *libvirt.DomainStatsBalloon) hypervisor.MemoryStats {
	if b == nil {
		return hypervisor.MemoryStats{}
	}
	return hypervisor.MemoryStats{
		Current: b.Current * kib, Maximum: b.Maximum * kib, RSS: b.Rss * kib,
		Available: b.Available * kib, Unused: b.Unused * kib, Usable: b.Usable * kib, Cache: b.DiskCaches * kib,
		SwapIn: b.SwapIn * kib, SwapOut: b.SwapOut * kib,
		MajorFaults: b.MajorFault, MinorFaults: b.MinorFault,
		HugetlbAllocations: b.HugetlbPgAlloc, HugetlbFailures: b.HugetlbPgFail,
	}
}

func diskStats(b libvirt.DomainStatsBlock, names deviceNames) hypervisor.DiskStats {
	return hypervisor.DiskStats{
		Name: b.Name, Alias: names[b.Name],
		ReadRequests: b.RdReqs, ReadBytes: b.RdBytes, ReadTime: b.RdTimes,
		WriteRequests: b.WrReqs, WriteBytes: b.WrBytes, WriteTime: b.WrTimes,
		FlushRequests: b.FlReqs, FlushTime: b.FlTimes,
		Allocation: b.Allocation, Capacity: b.Capacity, Physical: b.Physical,
	}
}

// nicStats takes the directions as they are: libvirt has turned them to the guest's.
func nicStats(n libvirt.DomainStatsNet, names deviceNames) hypervisor.NICStats {
	return hypervisor.NICStats{
		Name: n.Name, Alias: names[n.Name],
		RxBytes: n.RxBytes, RxPackets: n.RxPkts, RxErrors: n.RxErrs, RxDrops: n.RxDrop,
		TxBytes: n.TxBytes, TxPackets: n.TxPkts, TxErrors: n.TxErrs, TxDrops: n.TxDrop,
	}
}
