package domain

import (
	corev1 "k8s.io/api/core/v1"
	"libvirt.org/go/libvirtxml"

	machine "virtmesh/agent/vmi"
)

const (
	// cpuPeriodMicros is the span of time over which a limit is kept, as Kubernetes'.
	cpuPeriodMicros = 100_000
	// leastQuotaMicros is the smallest quota that the kernel takes.
	leastQuotaMicros = 1000

	// leastShares and mostShares bound a guest's weight to what both versions of
	// cgroups take. The second one is the weight of almost ten CPUs: guests that are
	// charged more weigh no more.
	leastShares, mostShares = 2, 10_000
)

// cpuTime shares the host's processors among its guests: each weighs what it is
// charged, so that those which asked for more get more when all want to run, and a CPU
// limit is never passed, by the guest and QEMU's own threads together, as it is for a
// pod. Guests with dedicated CPUs share them with nobody.
func cpuTime(c *conversion) {
	if s := c.domain.CPU; s != nil && s.DedicatedCPUPlacement {
		return
	}
	tune := &libvirtxml.DomainCPUTune{}
	if c.CPUMilli > 0 {
		tune.Shares = &libvirtxml.DomainCPUTuneShares{Value: cpuShares(c.CPUMilli)}
	}
	if limit := c.domain.Resources.Limits[corev1.ResourceCPU]; limit.Sign() > 0 {
		tune.GlobalPeriod = &libvirtxml.DomainCPUTunePeriod{Value: cpuPeriodMicros}
		tune.GlobalQuota = &libvirtxml.DomainCPUTuneQuota{Value: cpuQuota(machine.MilliCPU(limit))}
	}
	if tune.Shares != nil || tune.GlobalQuota != nil {
		c.out.CPUTune = tune
	}
}

// cpuShares is the weight of so many thousandths of a CPU: 1024 is one CPU, as in
// Kubernetes.
func cpuShares(milli int64) uint {
	const sharesPerCPU = 1024
	milli = min(milli, mostShares*1000/sharesPerCPU+1) // so that the product does not overflow
	return uint(min(max(milli*sharesPerCPU/1000, leastShares), mostShares))
}

// cpuQuota is the time in microseconds that so many thousandths of a CPU have in each
// period.
func cpuQuota(milli int64) int64 {
	const mostMilli = 1 << 37 // libvirt takes no quota of much more, and no host has so many CPUs
	return max(min(milli, mostMilli)*cpuPeriodMicros/1000, leastQuotaMicros)
}
