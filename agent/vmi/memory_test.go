package vmi

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

func quantityOf(s string) *resource.Quantity { q := resource.MustParse(s); return &q }

func memoryList(s string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(s)}
}

func TestGuestMemory(t *testing.T) {
	for name, tc := range map[string]struct {
		domain kubevirtv1.DomainSpec
		want   int64
	}{
		"nothing": {kubevirtv1.DomainSpec{}, 0},
		"guest first": {kubevirtv1.DomainSpec{Memory: &kubevirtv1.Memory{Guest: quantityOf("64Mi"), Hugepages: &kubevirtv1.Hugepages{PageSize: "2Mi"}},
			Resources: kubevirtv1.ResourceRequirements{Requests: memoryList("1Gi"), Limits: memoryList("2Gi")}}, 64 * mib},
		"then the request": {kubevirtv1.DomainSpec{Memory: &kubevirtv1.Memory{Hugepages: &kubevirtv1.Hugepages{PageSize: "2Mi"}},
			Resources: kubevirtv1.ResourceRequirements{Requests: memoryList("1Gi"), Limits: memoryList("2Gi")}}, gib},
		"then the limit": {kubevirtv1.DomainSpec{Memory: &kubevirtv1.Memory{Hugepages: &kubevirtv1.Hugepages{PageSize: "2Mi"}},
			Resources: kubevirtv1.ResourceRequirements{Limits: memoryList("2Gi")}}, 2 * gib},
		"a request of nothing": {kubevirtv1.DomainSpec{Resources: kubevirtv1.ResourceRequirements{Requests: memoryList("0"), Limits: memoryList("2Gi")}}, 2 * gib},
		"then a page":          {kubevirtv1.DomainSpec{Memory: &kubevirtv1.Memory{Hugepages: &kubevirtv1.Hugepages{PageSize: "1Gi"}}}, gib},
		"no page":              {kubevirtv1.DomainSpec{Memory: &kubevirtv1.Memory{Hugepages: &kubevirtv1.Hugepages{PageSize: "x"}}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			spec := &kubevirtv1.VirtualMachineInstanceSpec{Domain: tc.domain}
			if got := GuestMemory(spec); got != tc.want {
				t.Errorf("%d bytes, want %d", got, tc.want)
			}
			// The default is what is read.
			setGuestMemory(spec)
			if got := GuestMemory(spec); got != tc.want {
				t.Errorf("%d bytes by default, want %d", got, tc.want)
			}
		})
	}
}

func TestPageSizes(t *testing.T) {
	for size, want := range map[string]int64{"": 0, "2Mi": 2 * mib, "2048Ki": 2 * mib, "1Gi": gib, "64Ki": 64 * kib, "0": -1, "-2Mi": -1, "x": -1} {
		spec := &kubevirtv1.VirtualMachineInstanceSpec{}
		if size != "" {
			spec.Domain.Memory = &kubevirtv1.Memory{Hugepages: &kubevirtv1.Hugepages{PageSize: size}}
		}
		got, err := PageSize(spec)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %d, %v", size, got, err)
		}
	}
	for bytes, want := range map[int64]string{64 * kib: "64Ki", 2 * mib: "2Mi", gib: "1Gi", 1025 * mib: "1025Mi"} {
		if got := PageName(bytes); got != want {
			t.Errorf("%d bytes are called %s, want %s", bytes, got, want)
		}
	}
}

// Each part of a guest has its share in what QEMU needs beside the guest's memory.
func TestOverhead(t *testing.T) {
	no := false
	base := func() *kubevirtv1.VirtualMachineInstanceSpec {
		return &kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{Memory: &kubevirtv1.Memory{Guest: quantityOf("1Gi")}}}
	}
	plain := Overhead(base())
	if want := int64(gib/512 + 96*mib + 8*mib + 8*mib + 16*mib); plain != want {
		t.Fatalf("%d bytes, want %d", plain, want)
	}
	for name, tc := range map[string]struct {
		edit func(*kubevirtv1.DomainSpec)
		more int64
	}{
		"memory":        {func(d *kubevirtv1.DomainSpec) { d.Memory.Guest = quantityOf("2Gi") }, 2 * mib},
		"CPUs":          {func(d *kubevirtv1.DomainSpec) { d.CPU = &kubevirtv1.CPU{Cores: 3} }, 16 * mib},
		"room for CPUs": {func(d *kubevirtv1.DomainSpec) { d.CPU = &kubevirtv1.CPU{MaxSockets: 16} }, 0},
		"no display":    {func(d *kubevirtv1.DomainSpec) { d.Devices.AutoattachGraphicsDevice = &no }, -16 * mib},
		"a host device": {func(d *kubevirtv1.DomainSpec) { d.Devices.HostDevices = make([]kubevirtv1.HostDevice, 2) }, gib},
		"a GPU":         {func(d *kubevirtv1.DomainSpec) { d.Devices.GPUs = make([]kubevirtv1.GPU, 1) }, gib},
		"a function":    {func(d *kubevirtv1.DomainSpec) { d.Devices.Interfaces = []kubevirtv1.Interface{{}, sriov()} }, gib},
		"a bridge":      {func(d *kubevirtv1.DomainSpec) { d.Devices.Interfaces = make([]kubevirtv1.Interface, 2) }, 0},
		"what is asked": {func(d *kubevirtv1.DomainSpec) {
			d.Memory.ReservedOverhead = &kubevirtv1.ReservedOverhead{AddedOverhead: quantityOf("3Mi")}
		}, 3 * mib},
		"in whole pages": {func(d *kubevirtv1.DomainSpec) {
			d.Memory.ReservedOverhead = &kubevirtv1.ReservedOverhead{AddedOverhead: quantityOf("1")}
		}, kib},
	} {
		spec := base()
		tc.edit(&spec.Domain)
		if got := Overhead(spec) - plain; got != tc.more {
			t.Errorf("%s: %d bytes more, want %d", name, got, tc.more)
		}
	}
}

// The limit leaves an emulator room, and grows with what it is for. Huge pages count only if
// they are locked, which the limit bounds too.
func TestMemoryLimit(t *testing.T) {
	base := func() *kubevirtv1.VirtualMachineInstanceSpec {
		return &kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{Memory: &kubevirtv1.Memory{Guest: quantityOf("4Gi")}}}
	}
	plain := MemoryLimit(base(), false)
	if least := 4*gib + gib + 2*Overhead(base()); plain < least || plain > least+mib {
		t.Fatalf("%d bytes, want %d in whole mebibytes", plain, least)
	}
	huge := func(d *kubevirtv1.DomainSpec) { d.Memory.Hugepages = &kubevirtv1.Hugepages{PageSize: "2Mi"} }
	for name, tc := range map[string]struct {
		edit     func(*kubevirtv1.DomainSpec)
		emulated bool
		more     int64
	}{
		"disks":      {func(d *kubevirtv1.DomainSpec) { d.Devices.Disks = make([]kubevirtv1.Disk, 3) }, false, 3 * 64 * mib},
		"emulation":  {func(*kubevirtv1.DomainSpec) {}, true, gib},
		"room":       {func(d *kubevirtv1.DomainSpec) { d.Memory.MaxGuest = quantityOf("16Gi") }, false, 0},
		"huge pages": {huge, false, -4 * gib},
		"a device":   {func(d *kubevirtv1.DomainSpec) { huge(d); d.Devices.GPUs = make([]kubevirtv1.GPU, 1) }, false, 2 * gib},
		"real time":  {func(d *kubevirtv1.DomainSpec) { huge(d); d.CPU = &kubevirtv1.CPU{Realtime: &kubevirtv1.Realtime{}} }, false, 0},
		"what is asked": {func(d *kubevirtv1.DomainSpec) {
			d.Memory.ReservedOverhead = &kubevirtv1.ReservedOverhead{AddedOverhead: quantityOf("3Mi")}
		}, false, 6 * mib},
	} {
		spec := base()
		tc.edit(&spec.Domain)
		if got := MemoryLimit(spec, tc.emulated) - plain; got != tc.more {
			t.Errorf("%s: %d bytes more, want %d", name, got, tc.more)
		}
	}
	if got := MemoryLimit(&kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{Memory: &kubevirtv1.Memory{Guest: quantityOf("8Ei")}}}, true); got != mostOf {
		t.Errorf("%d bytes for more than any host has, want %d", got, int64(mostOf))
	}
}

func sriov() kubevirtv1.Interface {
	return kubevirtv1.Interface{InterfaceBindingMethod: kubevirtv1.InterfaceBindingMethod{SRIOV: &kubevirtv1.InterfaceSRIOV{}}}
}

func TestRounding(t *testing.T) {
	for _, tc := range []struct{ a, b, c, want int64 }{
		{0, 5, 3, 0}, {5, 1, 5, 1}, {6, 1, 5, 2}, {10, 100, 300, 4}, {-1, 5, 1, 0},
		{1 << 62, 4, 1, mostOf}, {1 << 62, 1, 8, 1 << 59}, {mostOf, 1, 1, mostOf}, {mostOf, 2, 1, mostOf},
	} {
		if got := mulDiv(tc.a, tc.b, tc.c); got != tc.want {
			t.Errorf("%d*%d/%d is %d, want %d", tc.a, tc.b, tc.c, got, tc.want)
		}
	}
	for _, tc := range []struct{ n, unit, want int64 }{{0, 4096, 0}, {1, 4096, 4096}, {4096, 4096, 4096}, {4097, 4096, 8192}, {1<<63 - 1, 4096, mostOf}} {
		if got := roundUp(tc.n, tc.unit); got != tc.want {
			t.Errorf("%d in units of %d is %d, want %d", tc.n, tc.unit, got, tc.want)
		}
	}
	if got := sum(mostOf, 1); got != mostOf {
		t.Errorf("most of anything and one is %d", got)
	}
	if got := sum(2, -3); got != 2 {
		t.Errorf("two and a negative number is %d", got)
	}
}
