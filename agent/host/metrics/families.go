package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/host/hypervisor"
)

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

// family is one metric of a T.
type family[T any] struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*T) float64
}

// families are all metrics, by what they are counted of.
type families struct {
	cpu         []family[hypervisor.CPUStats]
	vcpuSeconds *prometheus.Desc
	vcpu        []family[hypervisor.VCPUStats]
	memory      []family[hypervisor.MemoryStats]
	// balloon are the metrics that need a balloon driver in the guest.
	balloon []family[hypervisor.MemoryStats]
	disk    []family[hypervisor.DiskStats]
	nic     []family[hypervisor.NICStats]
	info    *prometheus.Desc
}

func newFamilies() families {
	return families{
		cpu: cpuFamilies(), vcpu: vcpuFamilies(), memory: memoryFamilies(), balloon: balloonFamilies(),
		disk: diskFamilies(), nic: nicFamilies(), info: infoDesc(),
		vcpuSeconds: desc("vcpu_seconds_total", "Time a virtual CPU has run, by the state it is in now: running, blocked or offline.", "id", "state"),
	}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("kubevirt_vmi_"+name, help, append([]string{"node", "namespace", "name"}, labels...), nil)
}

func cpuFamilies() []family[hypervisor.CPUStats] {
	type s = hypervisor.CPUStats
	return []family[s]{
		{desc("cpu_usage_seconds_total", "CPU time of the guest and of its emulation."), counter, func(c *s) float64 { return seconds(c.Time) }},
		{desc("cpu_user_usage_seconds_total", "CPU time spent in user mode."), counter, func(c *s) float64 { return seconds(c.User) }},
		{desc("cpu_system_usage_seconds_total", "CPU time spent in the host's kernel."), counter, func(c *s) float64 { return seconds(c.System) }},
	}
}

func vcpuFamilies() []family[hypervisor.VCPUStats] {
	type s = hypervisor.VCPUStats
	return []family[s]{
		{desc("vcpu_wait_seconds_total", "Time a virtual CPU waited for I/O.", "id"), counter, func(v *s) float64 { return seconds(v.Wait) }},
		{desc("vcpu_delay_seconds_total", "Time a virtual CPU was ready to run and the host's processors were busy.", "id"), counter, func(v *s) float64 { return seconds(v.Delay) }},
	}
}

func memoryFamilies() []family[hypervisor.MemoryStats] {
	type s = hypervisor.MemoryStats
	return []family[s]{
		{desc("memory_domain_bytes", "Memory the guest is given."), gauge, func(m *s) float64 { return float64(m.Maximum) }},
		{desc("memory_actual_balloon_bytes", "Memory the balloon leaves to the guest now."), gauge, func(m *s) float64 { return float64(m.Current) }},
		{desc("memory_resident_bytes", "Memory of the host that the guest's process occupies."), gauge, func(m *s) float64 { return float64(m.RSS) }},
	}
}

func balloonFamilies() []family[hypervisor.MemoryStats] {
	type s = hypervisor.MemoryStats
	return []family[s]{
		{desc("memory_available_bytes", "Memory the guest's kernel manages, as the guest says."), gauge, func(m *s) float64 { return float64(m.Available) }},
		{desc("memory_unused_bytes", "Memory the guest uses for nothing, as the guest says."), gauge, func(m *s) float64 { return float64(m.Unused) }},
		{desc("memory_usable_bytes", "Memory the guest could give back without swapping, as the guest says."), gauge, func(m *s) float64 { return float64(m.Usable) }},
		{desc("memory_cached_bytes", "Memory the guest uses as a cache, as the guest says."), gauge, func(m *s) float64 { return float64(m.Cache) }},
		// KubeVirt calls these two gauges although they only grow.
		{desc("memory_swap_in_traffic_bytes", "Bytes the guest has read from its swap space, as the guest says."), gauge, func(m *s) float64 { return float64(m.SwapIn) }},
		{desc("memory_swap_out_traffic_bytes", "Bytes the guest has written to its swap space, as the guest says."), gauge, func(m *s) float64 { return float64(m.SwapOut) }},
		{desc("memory_pgmajfault_total", "Page faults of the guest that needed its disk, as the guest says."), counter, func(m *s) float64 { return float64(m.MajorFaults) }},
		{desc("memory_pgminfault_total", "Page faults of the guest that did not need its disk, as the guest says."), counter, func(m *s) float64 { return float64(m.MinorFaults) }},
	}
}

func diskFamilies() []family[hypervisor.DiskStats] {
	type s = hypervisor.DiskStats
	return []family[s]{
		{desc("storage_iops_read_total", "Read requests.", "drive"), counter, func(d *s) float64 { return float64(d.ReadRequests) }},
		{desc("storage_iops_write_total", "Write requests.", "drive"), counter, func(d *s) float64 { return float64(d.WriteRequests) }},
		{desc("storage_read_traffic_bytes_total", "Bytes read.", "drive"), counter, func(d *s) float64 { return float64(d.ReadBytes) }},
		{desc("storage_write_traffic_bytes_total", "Bytes written.", "drive"), counter, func(d *s) float64 { return float64(d.WriteBytes) }},
		{desc("storage_read_times_seconds_total", "Time spent on reads.", "drive"), counter, func(d *s) float64 { return seconds(d.ReadTime) }},
		{desc("storage_write_times_seconds_total", "Time spent on writes.", "drive"), counter, func(d *s) float64 { return seconds(d.WriteTime) }},
		{desc("storage_flush_requests_total", "Flush requests.", "drive"), counter, func(d *s) float64 { return float64(d.FlushRequests) }},
		{desc("storage_flush_times_seconds_total", "Time spent on flushes.", "drive"), counter, func(d *s) float64 { return seconds(d.FlushTime) }},
	}
}

func nicFamilies() []family[hypervisor.NICStats] {
	type s = hypervisor.NICStats
	return []family[s]{
		{desc("network_receive_bytes_total", "Bytes the guest received.", "interface"), counter, func(n *s) float64 { return float64(n.RxBytes) }},
		{desc("network_transmit_bytes_total", "Bytes the guest sent.", "interface"), counter, func(n *s) float64 { return float64(n.TxBytes) }},
		{desc("network_receive_packets_total", "Packets the guest received.", "interface"), counter, func(n *s) float64 { return float64(n.RxPackets) }},
		{desc("network_transmit_packets_total", "Packets the guest sent.", "interface"), counter, func(n *s) float64 { return float64(n.TxPackets) }},
		{desc("network_receive_errors_total", "Packets to the guest that failed.", "interface"), counter, func(n *s) float64 { return float64(n.RxErrors) }},
		{desc("network_transmit_errors_total", "Packets from the guest that failed.", "interface"), counter, func(n *s) float64 { return float64(n.TxErrors) }},
		{desc("network_receive_packets_dropped_total", "Packets to the guest that were dropped.", "interface"), counter, func(n *s) float64 { return float64(n.RxDrops) }},
		{desc("network_transmit_packets_dropped_total", "Packets from the guest that were dropped.", "interface"), counter, func(n *s) float64 { return float64(n.TxDrops) }},
	}
}

func (f *families) describe(ch chan<- *prometheus.Desc) {
	ch <- f.vcpuSeconds
	ch <- f.info
	describe(ch, f.cpu)
	describe(ch, f.vcpu)
	describe(ch, f.memory)
	describe(ch, f.balloon)
	describe(ch, f.disk)
	describe(ch, f.nic)
}

func describe[T any](ch chan<- *prometheus.Desc, all []family[T]) {
	for _, f := range all {
		ch <- f.desc
	}
}

// guest sends the counters of one guest.
func (f *families) guest(out sink, s *hypervisor.Stats) {
	send(out, f.cpu, s.Ref, &s.CPU)
	for i := range s.CPU.VCPUs {
		v := &s.CPU.VCPUs[i]
		id := strconv.FormatUint(uint64(v.ID), 10)
		out.put(f.vcpuSeconds, counter, seconds(v.Time), s.Ref.Namespace, s.Ref.Name, id, vcpuState(v))
		send(out, f.vcpu, s.Ref, v, id)
	}
	send(out, f.memory, s.Ref, &s.Memory)
	// A guest without a balloon driver shows zero, which means that nothing is known,
	// and not that no memory is left.
	if s.Memory.Available != 0 {
		send(out, f.balloon, s.Ref, &s.Memory)
	}
	seen := map[string]bool{}
	for i := range s.Disks {
		if drive := device(seen, s.Disks[i].Alias, s.Disks[i].Name); drive != "" {
			send(out, f.disk, s.Ref, &s.Disks[i], drive)
		}
	}
	clear(seen)
	for i := range s.NICs {
		if nic := device(seen, s.NICs[i].Alias, s.NICs[i].Name); nic != "" {
			send(out, f.nic, s.Ref, &s.NICs[i], nic)
		}
	}
}

func send[T any](out sink, all []family[T], ref hypervisor.Ref, of *T, labels ...string) {
	for _, f := range all {
		out.put(f.desc, f.kind, f.value(of), ref.Namespace, ref.Name, labels...)
	}
}

// device returns the name of a device in its instance, or in the domain when it has
// none in the instance; "" if both are taken, as two series of the same labels would
// spoil the scrape.
func device(seen map[string]bool, names ...string) string {
	for _, name := range names {
		if name != "" && !seen[name] {
			seen[name] = true
			return name
		}
	}
	return ""
}

// vcpuState returns KubeVirt's name of the state of a virtual CPU. A CPU that has never
// run counts as offline, like the CPUs that may be plugged later.
func vcpuState(v *hypervisor.VCPUStats) string {
	switch {
	case v.Running:
		return "running"
	case v.Time > 0:
		return "blocked"
	}
	return "offline"
}

// seconds converts from nanoseconds.
func seconds(ns uint64) float64 { return float64(ns) / 1e9 }
