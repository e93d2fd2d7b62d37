package vmi

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// bounds are pairs of the last value that is let through and the first that is not,
// with the field that the fault is told of.
var bounds = []struct {
	name      string
	field     string
	good, bad func(*spec)
}{
	{"guest memory", "spec.domain.memory.guest", guest("1Mi"), guest("1048575")},
	{"memory request", "spec.domain.resources.requests.memory", request(corev1.ResourceMemory, "1M"), request(corev1.ResourceMemory, "999999")},
	{"memory request and limit", "spec.domain.resources.requests.memory", request(corev1.ResourceMemory, "256Mi"), request(corev1.ResourceMemory, "268435457")},
	{"guest and limit", "spec.domain.memory.guest", guest("256Mi"), guest("268435457")},
	{"guest and room", "spec.domain.memory.guest", room("128Mi"), room("134217727")},
	{"CPU request and limit", "spec.domain.resources.requests.cpu", request(corev1.ResourceCPU, "2"), request(corev1.ResourceCPU, "2001m")},
	{"CPUs", "spec.domain.cpu", cpus(85, 3), cpus(86, 3)},
	{"sockets", "spec.domain.cpu.sockets", cpus(255, 1), cpus(256, 1)},
	{"cores", "spec.domain.cpu.cores", cpus(1, 255), cpus(1, 256)},
	{"threads", "spec.domain.cpu.threads", func(s *spec) { s.Domain.CPU = &kubevirtv1.CPU{Threads: 255} }, func(s *spec) { s.Domain.CPU = &kubevirtv1.CPU{Threads: 256} }},
	{"CPUs by request", "spec.domain.cpu.sockets", onlyCPURequest("255"), onlyCPURequest("255001m")},
	{"CPUs by limit", "spec.domain.cpu.sockets", onlyCPULimit("255"), onlyCPULimit("256")},
	{"addressable room", "spec.domain.memory.maxGuest", room("4503599627370495"), room("4Pi")},
	{"addressable guest", "spec.domain.memory.guest", onlyGuest("4503599627370495"), onlyGuest("4Pi")},
	{"addressable request", "spec.domain.resources.requests.memory", onlyMemoryRequest("4503599627370495"), onlyMemoryRequest("8Ei")},
	{"device", "spec.domain.devices.hostDevices[0].deviceName", device("nvidia.com/T4"), device("nvidia.com/T 4")},
	{"device of a domain", "spec.domain.devices.hostDevices[0].deviceName", device("intel.com/qat"), device("qat")},
	{"sockets and room", "spec.domain.cpu.sockets",
		func(s *spec) { s.Domain.CPU.Sockets, s.Domain.CPU.MaxSockets = 3, 3 }, func(s *spec) { s.Domain.CPU.Sockets, s.Domain.CPU.MaxSockets = 4, 3 }},
	{"pages in the guest", "spec.domain.memory.hugepages.pageSize", pages("128Mi"), pages("256Mi")},
	{"whole pages", "spec.domain.memory.hugepages.pageSize", pages("64Mi"), pages("3Mi")},
	{"grace", "spec.terminationGracePeriodSeconds",
		func(s *spec) { *s.TerminationGracePeriodSeconds = 0 }, func(s *spec) { *s.TerminationGracePeriodSeconds = -1 }},
	{"serial", "spec.domain.devices.disks[0].serial",
		func(s *spec) { s.Domain.Devices.Disks[0].Serial = strings.Repeat("s", 256) }, func(s *spec) { s.Domain.Devices.Disks[0].Serial = strings.Repeat("s", 257) }},
	{"boot order", "spec.domain.devices.disks[0].bootOrder",
		func(s *spec) { *s.Domain.Devices.Disks[0].BootOrder = 1 }, func(s *spec) { *s.Domain.Devices.Disks[0].BootOrder = 0 }},
	{"least block", "spec.domain.devices.disks[0].blockSize.custom.logical", logical(512), logical(256)},
	{"block of a power of two", "spec.domain.devices.disks[0].blockSize.custom.logical", logical(4096), logical(3072)},
	{"logical and physical block", "spec.domain.devices.disks[0].blockSize.custom.logical", logical(4096), logical(8192)},
	{"largest block", "spec.domain.devices.disks[0].blockSize.custom.physical", physical(2 << 20), physical(4 << 20)},
	{"cloud-init", "spec.volumes[1].cloudInitNoCloud.userData",
		func(s *spec) { s.Volumes[1].CloudInitNoCloud.UserData = strings.Repeat("x", 2048) },
		func(s *spec) { s.Volumes[1].CloudInitNoCloud.UserData = strings.Repeat("x", 2049) }},
	{"empty disk", "spec.volumes[0].emptyDisk.capacity", emptyDisk("1"), emptyDisk("0")},
	{"first private option", "spec.domain.devices.interfaces[1].dhcpOptions.privateOptions[0].option", option(224), option(223)},
	{"last private option", "spec.domain.devices.interfaces[1].dhcpOptions.privateOptions[0].option", option(254), option(255)},
	{"last port", "spec.domain.devices.interfaces[0].ports[0].port", port(65535), port(65536)},
	{"first port", "spec.domain.devices.interfaces[0].ports[0].port", port(1), port(0)},
	{"volumes", "spec.volumes", volumes(256), volumes(257)},
	{"pool of threads", "spec.domain.ioThreads.supplementalPoolThreadCount", pool(1), pool(0)},
	{"host name", "spec.hostname", func(s *spec) { s.Hostname = strings.Repeat("a", 63) }, func(s *spec) { s.Hostname = strings.Repeat("a", 64) }},
}

func guest(q string) func(*spec) { return func(s *spec) { s.Domain.Memory.Guest = quantityOf(q) } }
func room(q string) func(*spec)  { return func(s *spec) { s.Domain.Memory.MaxGuest = quantityOf(q) } }

func request(name corev1.ResourceName, q string) func(*spec) {
	return func(s *spec) { s.Domain.Resources.Requests[name] = resource.MustParse(q) }
}

func onlyCPURequest(q string) func(*spec) {
	return func(s *spec) {
		s.Domain.CPU, s.Domain.Resources = nil, kubevirtv1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(q)}}
	}
}

func onlyCPULimit(q string) func(*spec) {
	return func(s *spec) {
		s.Domain.CPU, s.Domain.Resources = nil, kubevirtv1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(q)}}
	}
}

func onlyGuest(q string) func(*spec) {
	return func(s *spec) {
		s.Domain.Memory, s.Domain.Resources = &kubevirtv1.Memory{Guest: quantityOf(q)}, kubevirtv1.ResourceRequirements{}
	}
}

func onlyMemoryRequest(q string) func(*spec) {
	return func(s *spec) {
		s.Domain.Memory, s.Domain.Resources = nil, kubevirtv1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(q)}}
	}
}

func device(name string) func(*spec) {
	return func(s *spec) { s.Domain.Devices.HostDevices[0].DeviceName = name }
}

func cpus(sockets, cores uint32) func(*spec) {
	return func(s *spec) { s.Domain.CPU.Sockets, s.Domain.CPU.Cores = sockets, cores }
}

func pages(size string) func(*spec) {
	return func(s *spec) { s.Domain.Memory.Hugepages = &kubevirtv1.Hugepages{PageSize: size} }
}

func logical(n uint) func(*spec) {
	return func(s *spec) { s.Domain.Devices.Disks[0].BlockSize.Custom.Logical = n }
}

func physical(n uint) func(*spec) {
	return func(s *spec) { s.Domain.Devices.Disks[0].BlockSize.Custom.Physical = n }
}

func emptyDisk(q string) func(*spec) {
	return func(s *spec) {
		s.Volumes[0].ContainerDisk = nil
		s.Volumes[0].EmptyDisk = &kubevirtv1.EmptyDiskSource{Capacity: resource.MustParse(q)}
	}
}

func option(n int) func(*spec) {
	return func(s *spec) { s.Domain.Devices.Interfaces[1].DHCPOptions.PrivateOptions[0].Option = n }
}

func port(n int32) func(*spec) {
	return func(s *spec) { s.Domain.Devices.Interfaces[0].Ports[0].Port = n }
}

func pool(n uint32) func(*spec) {
	return func(s *spec) {
		policy := kubevirtv1.IOThreadsPolicySupplementalPool
		s.Domain.IOThreadsPolicy, s.Domain.IOThreads = &policy, &kubevirtv1.DiskIOThreads{SupplementalPoolThreadCount: &n}
	}
}

func volumes(n int) func(*spec) {
	return func(s *spec) {
		for i := len(s.Volumes); i < n; i++ {
			s.Volumes = append(s.Volumes, kubevirtv1.Volume{Name: fmt.Sprintf("more%d", i), VolumeSource: kubevirtv1.VolumeSource{
				EmptyDisk: &kubevirtv1.EmptyDiskSource{Capacity: resource.MustParse("1Mi")}}})
		}
	}
}

func TestBounds(t *testing.T) {
	for _, b := range bounds {
		t.Run(b.name, func(t *testing.T) {
			good, bad := instance(t), instance(t)
			b.good(&good.Spec)
			b.bad(&bad.Spec)
			SetNewInstance(defaults(), good, time.Now())
			SetNewInstance(defaults(), bad, time.Now())
			if errs := ValidateInstance(defaults(), good); len(errs) > 0 {
				t.Errorf("the last good value is refused: %v", errs.ToAggregate())
			}
			if errs := ValidateInstance(defaults(), bad); !reports(errs, b.field) {
				t.Errorf("the first bad value: no error at %s, but %v", b.field, errs.ToAggregate())
			}
		})
	}
}

// dedicated makes the good instance one with CPUs of its own.
func dedicated(s *spec) {
	s.Domain.CPU.DedicatedCPUPlacement = true
	s.Domain.Resources = kubevirtv1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("128Mi")},
		Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("128Mi")},
	}
}

func TestDedicatedCPUs(t *testing.T) {
	for name, tc := range map[string]struct {
		edit  func(*spec)
		field string
	}{
		"good":                    {func(*spec) {}, ""},
		"two threads":             {func(s *spec) { s.Domain.CPU.Cores, s.Domain.CPU.Threads = 1, 2 }, ""},
		"three threads":           {func(s *spec) { s.Domain.CPU.Cores, s.Domain.CPU.Threads = 1, 3 }, "spec.domain.cpu.threads"},
		"a part of a CPU":         {request(corev1.ResourceCPU, "1500m"), "spec.domain.resources.requests.cpu"},
		"fewer than the guest's":  {request(corev1.ResourceCPU, "1"), "spec.domain.resources.requests.cpu"},
		"less memory than most":   {request(corev1.ResourceMemory, "64Mi"), "spec.domain.resources.requests.memory"},
		"isolated emulator":       {func(s *spec) { s.Domain.CPU.IsolateEmulatorThread = true }, ""},
		"isolated, not dedicated": {func(s *spec) { s.Domain.CPU.DedicatedCPUPlacement, s.Domain.CPU.IsolateEmulatorThread = false, true }, "spec.domain.cpu.isolateEmulatorThread"},
		"real time alone":         {func(s *spec) { s.Domain.CPU.Realtime = &kubevirtv1.Realtime{} }, "spec.domain.cpu.numa.guestMappingPassthrough"},
		"real time, not dedicated": {func(s *spec) {
			s.Domain.CPU.DedicatedCPUPlacement, s.Domain.CPU.Realtime = false, &kubevirtv1.Realtime{}
		},
			"spec.domain.cpu.realtime"},
		"memory nodes in small pages": {func(s *spec) {
			s.Domain.CPU.NUMA = &kubevirtv1.NUMA{GuestMappingPassthrough: &kubevirtv1.NUMAGuestMappingPassthrough{}}
		},
			"spec.domain.memory.hugepages"},
	} {
		t.Run(name, func(t *testing.T) {
			vmi := instance(t)
			dedicated(&vmi.Spec)
			tc.edit(&vmi.Spec)
			SetNewInstance(defaults(), vmi, time.Now())
			errs := ValidateInstance(defaults(), vmi)
			if tc.field == "" && len(errs) > 0 || tc.field != "" && !reports(errs, tc.field) {
				t.Errorf("want an error at %q, have %v", tc.field, errs.ToAggregate())
			}
		})
	}
}
