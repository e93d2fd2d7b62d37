package domain

import (
	corev1 "k8s.io/api/core/v1"
	"libvirt.org/go/libvirtxml"

	machine "virtmesh/agent/vmi"
)

const (
	// cpuPeriodMicros is the period over which a limit is enforced, the same as in
	// Kubernetes.
	cpuPeriodMicros = 100_000
	// leastQuotaMicros is the smallest quota that the kernel accepts.
	leastQuotaMicros = 1000

	// leastShares and mostShares bound a guest's weight to the values that both
	// versions of cgroups accept. mostShares is the weight of almost ten CPUs: a guest
	// that is charged more gets no higher weight.
	leastShares, mostShares = 2, 10_000
)

// cpuTime shares the host's processors among its guests. The weight of a guest follows
// from the CPU time that it is charged, so guests that asked for more get more when all
// want to run. The guest and QEMU's own threads together never exceed its CPU limit, as
// for a pod. Guests with dedicated CPUs share them with nobody.
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

// cpuShares is the weight of milli thousandths of a CPU: one CPU has the weight 1024,
// as in Kubernetes.
func cpuShares(milli int64) uint {
	const sharesPerCPU = 1024
	milli = min(milli, mostShares*1000/sharesPerCPU+1) // so that the product does not overflow
	return uint(min(max(milli*sharesPerCPU/1000, leastShares), mostShares))
}

// cpuQuota is the CPU time, in microseconds for each period, that milli thousandths of
// a CPU amount to.
func cpuQuota(milli int64) int64 {
	const mostMilli = 1 << 37 // libvirt accepts no quota much larger, and no host has so many CPUs
	return max(min(milli, mostMilli)*cpuPeriodMicros/1000, leastQuotaMicros)
}
