package libvirt

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

const (
	// statsPatience bounds the reading of one guest's counters. An emulator that hangs
	// never answers, and must not delay the counters of other guests.
	statsPatience = 2 * time.Second
	statsTypes    = libvirt.DOMAIN_STATS_STATE | libvirt.DOMAIN_STATS_CPU_TOTAL | libvirt.DOMAIN_STATS_BALLOON |
		libvirt.DOMAIN_STATS_VCPU | libvirt.DOMAIN_STATS_INTERFACE | libvirt.DOMAIN_STATS_BLOCK
)

// Stats implements hypervisor.Observer. Each guest is a call of its own. A guest whose
// call takes too long is left out, and is not queried again before that call has ended.
// For a domain that is busy, only the counters that need no waiting are returned.
func (d *Driver) Stats(ctx context.Context) ([]hypervisor.Stats, error) {
	uuids, err := d.activeUUIDs(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var ours []hypervisor.Stats
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(cap(d.counters.slots))
	for _, uuid := range uuids {
		group.Go(func() error {
			stats, err := d.statsOf(within, uuid)
			switch {
			case err == nil:
				mu.Lock()
				defer mu.Unlock()
				ours = append(ours, stats...)
			case within.Err() != nil, errors.Is(err, hypervisor.ErrUnavailable):
				return err
			default:
				d.log.Warn("a guest's counters could not be read", "uuid", uuid, "err", err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return ours, nil
}

// activeUUIDs lists all running domains, also those of other programs, from the
// daemon's memory.
func (d *Driver) activeUUIDs(ctx context.Context) ([]string, error) {
	return call(ctx, d, d.queries, "list running domains", nil, func(conn *libvirt.Connect) ([]string, error) {
		all, err := conn.ListAllDomains(libvirt.CONNECT_LIST_DOMAINS_ACTIVE)
		if err != nil {
			return nil, err
		}
		defer freeAll(all)
		var uuids []string
		for i := range all {
			if uuid, err := all[i].GetUUIDString(); err == nil {
				uuids = append(uuids, uuid)
			}
		}
		return uuids, nil
	})
}

// statsOf reads the counters of one domain. It returns none if the domain does not
// belong to virtmesh, or if an earlier call for it is still under way.
func (d *Driver) statsOf(ctx context.Context, uuid string) ([]hypervisor.Stats, error) {
	if _, hangs := d.counted.LoadOrStore(uuid, true); hangs {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, statsPatience)
	defer cancel()
	var begun atomic.Bool
	stats, err := call(ctx, d, d.counters, "read statistics of "+uuid, nil, func(conn *libvirt.Connect) ([]hypervisor.Stats, error) {
		begun.Store(true)
		defer d.counted.Delete(uuid)
		return d.readStats(conn, uuid)
	})
	if !begun.Load() {
		d.counted.Delete(uuid)
	}
	return stats, err
}

// readStats reads one domain's counters from the daemon.
func (d *Driver) readStats(conn *libvirt.Connect, uuid string) ([]hypervisor.Stats, error) {
	dom, err := conn.LookupDomainByUUIDString(uuid)
	if is(err, libvirt.ERR_NO_DOMAIN) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = dom.Free() }()
	all, err := conn.GetAllDomainStats([]*libvirt.Domain{dom}, statsTypes, libvirt.CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE|libvirt.CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
	if is(err, libvirt.ERR_NO_DOMAIN) {
		return nil, nil
	}
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
}

// stats translates the counters of one domain. An error means that the domain is gone
// or does not belong to virtmesh.
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
	names, err := d.names.of(s, uuid, owner.UID)
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

// nicStats keeps the directions as they are: libvirt reports them from the guest's
// point of view.
func nicStats(n libvirt.DomainStatsNet, names deviceNames) hypervisor.NICStats {
	return hypervisor.NICStats{
		Name: n.Name, Alias: names[n.Name],
		RxBytes: n.RxBytes, RxPackets: n.RxPkts, RxErrors: n.RxErrs, RxDrops: n.RxDrop,
		TxBytes: n.TxBytes, TxPackets: n.TxPkts, TxErrors: n.TxErrs, TxDrops: n.TxDrop,
	}
}
