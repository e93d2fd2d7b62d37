package domain

import (
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"

	machine "virtmesh/agent/vmi"
)

// pinning pins the guest's threads to the host CPUs that are assigned to the guest.
func pinning(c *conversion) {
	spec := c.domain.CPU
	if spec == nil {
		return
	}
	path := c.root.Child("cpu")
	if !spec.DedicatedCPUPlacement {
		if spec.IsolateEmulatorThread {
			c.invalid(path.Child("isolateEmulatorThread"), true, "needs dedicatedCpuPlacement")
		}
		if spec.Realtime != nil {
			c.invalid(path.Child("realtime"), nil, "needs dedicatedCpuPlacement")
		}
		return
	}
	want := machine.TopologyOf(&c.VMI.Spec).VCPUs()
	if c.Pinning == nil || len(c.Pinning.VCPUs) < want {
		c.unsupported(path.Child("dedicatedCpuPlacement"), true, "%d host CPUs have not been set aside for the guest", want)
		return
	}
	if spec.IsolateEmulatorThread && len(c.Pinning.Emulator) == 0 {
		c.unsupported(path.Child("isolateEmulatorThread"), true, "no host CPU has been set aside for the emulator")
		return
	}
	tune := &libvirtxml.DomainCPUTune{}
	for i, cpu := range c.Pinning.VCPUs {
		tune.VCPUPin = append(tune.VCPUPin, libvirtxml.DomainCPUTuneVCPUPin{VCPU: uint(i), CPUSet: strconv.Itoa(cpu)})
	}
	emulator := c.Pinning.Emulator
	if len(emulator) == 0 {
		emulator = c.Pinning.VCPUs
	}
	tune.EmulatorPin = &libvirtxml.DomainCPUTuneEmulatorPin{CPUSet: cpuSet(emulator)}
	if spec.Realtime != nil {
		mask := spec.Realtime.Mask
		if mask == "" {
			mask = "0-" + strconv.Itoa(want-1)
		}
		tune.VCPUSched = []libvirtxml.DomainCPUTuneVCPUSched{{VCPUs: mask, Scheduler: "fifo", Priority: ptr(1)}}
		c.out.Features.PMU = &libvirtxml.DomainFeatureState{State: "off"}
	}
	c.out.CPUTune = tune
	if nodes := c.Pinning.NUMANodes; len(nodes) > 0 {
		c.out.NUMATune = &libvirtxml.DomainNUMATune{Memory: &libvirtxml.DomainNUMATuneMemory{Mode: "strict", Nodeset: cpuSet(nodes)}}
	}
}

func cpuSet(cpus []int) string {
	s := make([]string, len(cpus))
	for i, cpu := range cpus {
		s[i] = strconv.Itoa(cpu)
	}
	return strings.Join(s, ",")
}
