package vmi

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"pgregory.net/rapid"
)

func TestResourcesOfInstances(t *testing.T) {
	q := func(s string) *resource.Quantity { v := resource.MustParse(s); return &v }
	overhead := func(vcpus, guest int64) int64 { return guest/512 + 96*mib + 8*mib + 8*mib*vcpus + 16*mib }
	for name, tc := range map[string]struct {
		spec kubevirtv1.VirtualMachineInstanceSpec
		want Resources
	}{
		"nothing stated": {
			want: Resources{CPUMilli: 100, MemoryBytes: overhead(1, 0)},
		},
		"topology shares processors": {
			spec: kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{CPU: &kubevirtv1.CPU{Sockets: 2, Cores: 2, Threads: 2}, Memory: &kubevirtv1.Memory{Guest: q("1Gi")}}},
			want: Resources{CPUMilli: 800, MemoryBytes: gib + overhead(8, gib)},
		},
		"dedicated processors do not": {
			spec: kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{CPU: &kubevirtv1.CPU{Cores: 4, DedicatedCPUPlacement: true, IsolateEmulatorThread: true}, Memory: &kubevirtv1.Memory{Guest: q("1Gi")}}},
			want: Resources{CPUMilli: 5000, MemoryBytes: gib + overhead(4, gib)},
		},
		"a request below the guest does not shrink the claim": {
			spec: kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{
				Memory:    &kubevirtv1.Memory{Guest: q("2Gi")},
				Resources: kubevirtv1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: *q("1500m"), corev1.ResourceMemory: *q("1Gi")}},
			}},
			want: Resources{CPUMilli: 1500, MemoryBytes: 2*gib + overhead(2, 2*gib)},
		},
		"hugepages hold the guest": {
			spec: kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{Memory: &kubevirtv1.Memory{Guest: q("1Gi"), Hugepages: &kubevirtv1.Hugepages{PageSize: "2Mi"}}}},
			want: Resources{CPUMilli: 100, MemoryBytes: overhead(1, gib), Hugepages: map[string]int64{"2Mi": gib}},
		},
		"a request above the guest raises the claim": {
			spec: kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{
				Memory:    &kubevirtv1.Memory{Guest: q("1Gi")},
				Resources: kubevirtv1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: *q("10m"), corev1.ResourceMemory: *q("2Gi")}},
			}},
			want: Resources{CPUMilli: 100, MemoryBytes: 2*gib + overhead(1, gib)},
		},
		"page sizes have one name": {
			spec: kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{Memory: &kubevirtv1.Memory{Guest: q("1Gi"), Hugepages: &kubevirtv1.Hugepages{PageSize: "1024Mi"}}}},
			want: Resources{CPUMilli: 100, MemoryBytes: overhead(1, gib), Hugepages: map[string]int64{"1Gi": gib}},
		},
		"a page larger than every host is charged": {
			spec: kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{
				Memory:    &kubevirtv1.Memory{Guest: q("9223372036854775807"), Hugepages: &kubevirtv1.Hugepages{PageSize: "9223372036854775807"}},
				Resources: kubevirtv1.ResourceRequirements{OvercommitGuestOverhead: true},
			}},
			want: Resources{CPUMilli: 100, Hugepages: map[string]int64{"9223372036854775807": mostOf}},
		},
		"empty disks and devices": {
			spec: kubevirtv1.VirtualMachineInstanceSpec{
				Domain: kubevirtv1.DomainSpec{Memory: &kubevirtv1.Memory{Guest: q("1Gi")}, Resources: kubevirtv1.ResourceRequirements{OvercommitGuestOverhead: true},
					Devices: kubevirtv1.Devices{HostDevices: []kubevirtv1.HostDevice{{DeviceName: "a/b"}, {DeviceName: "a/b"}}, GPUs: []kubevirtv1.GPU{{DeviceName: "a/gpu"}}}},
				Volumes: []kubevirtv1.Volume{
					{VolumeSource: kubevirtv1.VolumeSource{EmptyDisk: &kubevirtv1.EmptyDiskSource{Capacity: *q("1")}}},
					{VolumeSource: kubevirtv1.VolumeSource{EmptyDisk: &kubevirtv1.EmptyDiskSource{Capacity: *q("8Ki")}}},
				},
			},
			want: Resources{CPUMilli: 100, MemoryBytes: gib, EphemeralBytes: 12 * kib, Devices: map[string]int64{"a/b": 2, "a/gpu": 1}},
		},
	} {
		if got := DefaultPolicy().Resources(&tc.spec); !got.Equal(tc.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, tc.want)
		}
	}
}

func TestOvercommitmentIsCharged(t *testing.T) {
	guest := resource.MustParse("1Gi")
	spec := kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{
		CPU: &kubevirtv1.CPU{Sockets: 3}, Memory: &kubevirtv1.Memory{Guest: &guest},
		Resources: kubevirtv1.ResourceRequirements{OvercommitGuestOverhead: true},
	}}
	got := Policy{CPUAllocationRatio: 2, MemoryOvercommitPercent: 300}.Resources(&spec)
	if want := (Resources{CPUMilli: 1500, MemoryBytes: 357913942}); !got.Equal(want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestPolicyNamesItsFaults(t *testing.T) {
	if err := DefaultPolicy().Validate(); err != nil {
		t.Error(err)
	}
	if err := (Policy{CPUAllocationRatio: 1, MemoryOvercommitPercent: 10}).Validate(); err != nil {
		t.Error(err)
	}
	err := Policy{CPUAllocationRatio: 0, MemoryOvercommitPercent: 9}.Validate()
	if want := "cpuAllocationRatio is 0, want at least 1\nmemoryOvercommitPercent is 9, want at least 10"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Whatever a manifest asks for, the charges of a few instances add up to a number
// that is not negative: the rules compare such sums.
func TestChargesNeverOverflow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := func(name string) resource.Quantity {
			return *resource.NewQuantity(rapid.Int64Range(0, 1<<63-1).Draw(t, name), resource.BinarySI)
		}
		guest, added := q("guest"), q("added")
		count := rapid.Uint32()
		spec := kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{
			CPU:    &kubevirtv1.CPU{Sockets: count.Draw(t, "sockets"), Cores: count.Draw(t, "cores"), Threads: count.Draw(t, "threads")},
			Memory: &kubevirtv1.Memory{Guest: &guest, ReservedOverhead: &kubevirtv1.ReservedOverhead{AddedOverhead: &added}},
			Resources: kubevirtv1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: q("cpu"), corev1.ResourceMemory: q("memory"), corev1.ResourceEphemeralStorage: q("ephemeral")}},
		}}
		for range 2 {
			spec.Volumes = append(spec.Volumes, kubevirtv1.Volume{VolumeSource: kubevirtv1.VolumeSource{EmptyDisk: &kubevirtv1.EmptyDiskSource{Capacity: q("disk")}}})
		}
		one := Policy{CPUAllocationRatio: 1, MemoryOvercommitPercent: 10}.Resources(&spec)
		if one.MemoryBytes < min(guest.Value(), mostOf) || one.EphemeralBytes < min(spec.Volumes[0].EmptyDisk.Capacity.Value(), mostOf) {
			t.Errorf("charged %+v", one)
		}
		sum := one.Add(one).Add(one).Add(one)
		if sum.CPUMilli < one.CPUMilli || sum.MemoryBytes < one.MemoryBytes || sum.EphemeralBytes < one.EphemeralBytes {
			t.Errorf("four times %+v is %+v", one, sum)
		}
	})
}

func TestTopology(t *testing.T) {
	q := resource.MustParse
	for name, tc := range map[string]struct {
		cpu      *kubevirtv1.CPU
		res      kubevirtv1.ResourceRequirements
		want     Topology
		vcpus    int
		maxVCPUs int
	}{
		"nothing":                             {want: Topology{1, 1, 1, 1}, vcpus: 1, maxVCPUs: 1},
		"parts":                               {cpu: &kubevirtv1.CPU{Sockets: 2, Threads: 2, MaxSockets: 5}, want: Topology{2, 1, 2, 5}, vcpus: 4, maxVCPUs: 10},
		"fewer sockets at most than at first": {cpu: &kubevirtv1.CPU{Sockets: 3, MaxSockets: 1}, want: Topology{3, 1, 1, 3}, vcpus: 3, maxVCPUs: 3},
		"limit before request": {
			res:  kubevirtv1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: q("2500m")}, Requests: corev1.ResourceList{corev1.ResourceCPU: q("1")}},
			want: Topology{3, 1, 1, 3}, vcpus: 3, maxVCPUs: 3,
		},
		"a limit of zero is one": {
			res:  kubevirtv1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: q("0")}, Requests: corev1.ResourceList{corev1.ResourceCPU: q("4")}},
			want: Topology{1, 1, 1, 1}, vcpus: 1, maxVCPUs: 1,
		},
		"request": {cpu: &kubevirtv1.CPU{Model: "Haswell"}, res: kubevirtv1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: q("4")}},
			want: Topology{4, 1, 1, 4}, vcpus: 4, maxVCPUs: 4},
	} {
		t.Run(name, func(t *testing.T) {
			spec := &kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{CPU: tc.cpu, Resources: tc.res}}
			got := TopologyOf(spec)
			if got != tc.want || got.VCPUs() != tc.vcpus || got.MaxVCPUs() != tc.maxVCPUs {
				t.Errorf("got %+v with %d and at most %d CPUs, want %+v", got, got.VCPUs(), got.MaxVCPUs(), tc.want)
			}
		})
	}
}

func TestRoomEndsWithTheHosts(t *testing.T) {
	for _, tc := range []struct{ sockets, most, limit, want int }{
		{2, 8, 0, 8}, {2, 8, 100, 8}, {2, 8, 12, 3}, {2, 8, 7, 2}, {4, 4, 1, 4},
	} {
		got := Topology{Sockets: tc.sockets, Cores: 2, Threads: 2, MaxSockets: tc.most}.WithinLimit(tc.limit)
		if got.MaxSockets != tc.want {
			t.Errorf("%+v: at most %d sockets", tc, got.MaxSockets)
		}
	}
}

// The conversion of quantities makes zero of what does not fit, and a guest that asks
// for more than any host has must not be charged nothing.
func TestMilliCPU(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "1n": 1, "100m": 100, "1.5": 1500, "512": 512_000, "9P": mostOf, "10P": mostOf, "8E": mostOf} {
		if got := MilliCPU(resource.MustParse(text)); got != want {
			t.Errorf("%s is %d thousandths, want %d", text, got, want)
		}
	}
}

// What a guest writes over an image counts as the mesh's policy says, unless the machine says
// itself how much that is.
func TestOverlaysCountAsThePolicySays(t *testing.T) {
	const spare = 2 << 30
	image := func(name string) kubevirtv1.Volume {
		return kubevirtv1.Volume{Name: name, VolumeSource: kubevirtv1.VolumeSource{ContainerDisk: &kubevirtv1.ContainerDiskSource{}}}
	}
	disk := kubevirtv1.DiskDevice{Disk: &kubevirtv1.DiskTarget{}}
	for name, c := range map[string]struct {
		disk    kubevirtv1.DiskDevice
		request string
		policy  int64
		want    int64
	}{
		"nothing is said":         {disk: disk, want: 8192},
		"the policy counts":       {disk: disk, policy: spare, want: 8192 + spare},
		"in whole blocks":         {disk: disk, policy: 1, want: 8192 + 4096},
		"the machine says more":   {disk: disk, request: "5Gi", policy: spare, want: 5 << 30},
		"the machine says less":   {disk: disk, request: "1Gi", policy: spare, want: 1 << 30},
		"a CD":                    {disk: kubevirtv1.DiskDevice{CDRom: &kubevirtv1.CDRomTarget{}}, policy: spare, want: 8192},
		"a disk for reading only": {disk: kubevirtv1.DiskDevice{Disk: &kubevirtv1.DiskTarget{ReadOnly: true}}, policy: spare, want: 8192},
	} {
		spec := kubevirtv1.VirtualMachineInstanceSpec{
			Domain: kubevirtv1.DomainSpec{Devices: kubevirtv1.Devices{Disks: []kubevirtv1.Disk{{Name: "image", DiskDevice: c.disk}, {Name: "empty", DiskDevice: disk}}}},
			Volumes: []kubevirtv1.Volume{
				image("image"), image("no disk of the guest"),
				{Name: "empty", VolumeSource: kubevirtv1.VolumeSource{EmptyDisk: &kubevirtv1.EmptyDiskSource{Capacity: resource.MustParse("8Ki")}}},
			},
		}
		if c.request != "" {
			spec.Domain.Resources.Requests = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(c.request)}
		}
		policy := DefaultPolicy()
		policy.ImageOverlayBytes = c.policy
		if got := policy.Resources(&spec).EphemeralBytes; got != c.want {
			t.Errorf("%s: %d bytes, want %d", name, got, c.want)
		}
	}
}
