package libvirt

import (
	"reflect"
	"testing"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

// TestMemoryCountsInBytes: libvirt counts in KiB, the contract in bytes, and page faults
// are no sizes.
func TestMemoryCountsInBytes(t *testing.T) {
	got := memoryStats(&libvirt.DomainStatsBalloon{
		Current: 1, Maximum: 2, Rss: 3, Available: 4, Unused: 5, Usable: 6, DiskCaches: 7, SwapIn: 8, SwapOut: 9,
		MajorFault: 10, MinorFault: 11, HugetlbPgAlloc: 12, HugetlbPgFail: 13,
	})
	want := hypervisor.MemoryStats{
		Current: 1 << 10, Maximum: 2 << 10, RSS: 3 << 10, Available: 4 << 10, Unused: 5 << 10, Usable: 6 << 10, Cache: 7 << 10,
		SwapIn: 8 << 10, SwapOut: 9 << 10, MajorFaults: 10, MinorFaults: 11, HugetlbAllocations: 12, HugetlbFailures: 13,
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := memoryStats(nil); got != (hypervisor.MemoryStats{}) {
		t.Errorf("of a guest without a balloon: %+v", got)
	}
}

// TestDevicesAreCountedUnderTheirNames: no two counters are confused.
func TestDevicesAreCountedUnderTheirNames(t *testing.T) {
	names := deviceNames{"vda": "root", "tap1": "default"}
	disk := diskStats(libvirt.DomainStatsBlock{
		Name: "vda", RdReqs: 1, RdBytes: 2, RdTimes: 3, WrReqs: 4, WrBytes: 5, WrTimes: 6, FlReqs: 7, FlTimes: 8,
		Allocation: 9, Capacity: 10, Physical: 11,
	}, names)
	if want := (hypervisor.DiskStats{
		Name: "vda", Alias: "root", ReadRequests: 1, ReadBytes: 2, ReadTime: 3, WriteRequests: 4, WriteBytes: 5, WriteTime: 6,
		FlushRequests: 7, FlushTime: 8, Allocation: 9, Capacity: 10, Physical: 11,
	}); disk != want {
		t.Errorf("disk %+v, want %+v", disk, want)
	}
	nic := nicStats(libvirt.DomainStatsNet{
		Name: "tap1", RxBytes: 1, RxPkts: 2, RxErrs: 3, RxDrop: 4, TxBytes: 5, TxPkts: 6, TxErrs: 7, TxDrop: 8,
	}, names)
	if want := (hypervisor.NICStats{
		Name: "tap1", Alias: "default", RxBytes: 1, RxPackets: 2, RxErrors: 3, RxDrops: 4,
		TxBytes: 5, TxPackets: 6, TxErrors: 7, TxDrops: 8,
	}); nic != want {
		t.Errorf("interface %+v, want %+v", nic, want)
	}
	if other := diskStats(libvirt.DomainStatsBlock{Name: "sda"}, names); other.Alias != "" {
		t.Errorf("a drive that no volume names is counted as %q", other.Alias)
	}
}

func TestMigrationCounts(t *testing.T) {
	got := migrationStats(&libvirt.DomainJobInfo{
		TimeElapsed: 1500, Downtime: 20, MemTotal: 1, MemProcessed: 2, MemRemaining: 3, DiskTotal: 4, DiskProcessed: 5, DiskRemaining: 6,
		MemDirtyRate: 7, MemPageSize: 4096, MemBps: 8, MemIteration: 9, MemPostcopyReqs: 1,
	})
	want := hypervisor.MigrationStats{
		Elapsed: 1500 * time.Millisecond, Downtime: 20 * time.Millisecond, MemoryTotal: 1, MemoryDone: 2, MemoryRemaining: 3,
		DiskTotal: 4, DiskDone: 5, DiskRemaining: 6, DirtyBytesPerSecond: 7 * 4096, MemoryBytesPerSecond: 8, Iterations: 9, PostCopy: true,
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestGuestsAnswers: what an ordinary guest says comes through whole.
func TestGuestsAnswers(t *testing.T) {
	var out hypervisor.GuestInfo
	for kind, answer := range map[libvirt.DomainGuestInfoTypes]*libvirt.DomainGuestInfo{
		libvirt.DOMAIN_GUEST_INFO_OS: {OS: &libvirt.DomainGuestInfoOS{
			ID: "debian", Name: "Debian GNU/Linux", PrettyName: "Debian GNU/Linux 12", Version: "12 (bookworm)", VersionID: "12",
			KernelRelease: "6.1.0", KernelVersion: "#1 SMP", Machine: "x86_64",
		}},
		libvirt.DOMAIN_GUEST_INFO_HOSTNAME: {Hostname: "web-1"},
		libvirt.DOMAIN_GUEST_INFO_TIMEZONE: {TimeZone: &libvirt.DomainGuestInfoTimeZone{Name: "CET", Offset: 3600}},
		libvirt.DOMAIN_GUEST_INFO_USERS:    {Users: []libvirt.DomainGuestInfoUser{{Name: "root", Domain: "d", LoginTime: 1500}}},
		libvirt.DOMAIN_GUEST_INFO_FILESYSTEM: {FileSystems: []libvirt.DomainGuestInfoFileSystem{{
			MountPoint: "/", Name: "vda1", FSType: "ext4", TotalBytes: 100, UsedBytes: 40,
			Disks: []libvirt.DomainGuestInfoFileSystemDisk{{Alias: "vda", Serial: "s", Device: "/dev/vda1"}, {Alias: "sda"}, {Alias: "xvda"}},
		}}},
		libvirt.DOMAIN_GUEST_INFO_INTERFACES: {Interfaces: []libvirt.DomainGuestInfoInterface{{
			Name: "eth0", Hwaddr: "02:00:00:AA:BB:CC", Addrs: []libvirt.DomainGuestInfoIPAddress{{Addr: "10.0.0.5", Prefix: 24}},
		}}},
	} {
		mergeGuestInfo(&out, kind, answer)
	}
	want := hypervisor.GuestInfo{
		Hostname: "web-1", Timezone: "CET", TZOffset: 3600,
		OS: hypervisor.GuestOS{
			ID: "debian", Name: "Debian GNU/Linux", PrettyName: "Debian GNU/Linux 12", Version: "12 (bookworm)", VersionID: "12",
			KernelRelease: "6.1.0", KernelVersion: "#1 SMP", Machine: "x86_64",
		},
		Users: []hypervisor.GuestUser{{Name: "root", Domain: "d", LoginTime: 1.5}},
		Filesystems: []hypervisor.GuestFilesystem{{
			Mountpoint: "/", Name: "vda1", Type: "ext4", TotalBytes: 100, UsedBytes: 40,
			Disks: []hypervisor.GuestDisk{{Device: "/dev/vda1", Serial: "s", BusType: "virtio"}, {BusType: "scsi"}, {}},
		}},
		Interfaces: []hypervisor.GuestInterface{{Name: "eth0", MAC: "02:00:00:aa:bb:cc", Addresses: []string{"10.0.0.5/24"}}},
	}
	if !reflect.DeepEqual(out, want) {
		t.Errorf("got\n%+v\nwant\n%+v", out, want)
	}
}

// TestAgentIsConnectedByItsChannel: no other channel counts, and not one that nobody
// has opened.
func TestAgentIsConnectedByItsChannel(t *testing.T) {
	for text, want := range map[string]bool{
		"<domain type='qemu'/>": false,
		"<domain type='qemu'><devices><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel></devices></domain>":    true,
		"<domain type='qemu'><devices><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='disconnected'/></channel></devices></domain>": false,
		"<domain type='qemu'><devices><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>":                      false,
		"<domain type='qemu'><devices><channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0' state='connected'/></channel></devices></domain>":    false,
	} {
		domain := &libvirtxml.Domain{}
		if err := domain.Unmarshal(text); err != nil {
			t.Fatal(err)
		}
		if got := agentConnected(domain); got != want {
			t.Errorf("%s: connected %v", text, got)
		}
	}
}

func TestOwnerCacheForgetsWhatIsGone(t *testing.T) {
	c := newOwnerCache()
	owner := hypervisor.Owner{Host: "h", Epoch: 2}
	c.put("u", owner)
	if got, ok := c.get("u"); !ok || got != owner {
		t.Errorf("got %+v, %v", got, ok)
	}
	c.forget("u")
	if got, ok := c.get("u"); ok {
		t.Errorf("forgotten, it is %+v", got)
	}
}

func FuzzParseDevice(f *testing.F) {
	f.Add("<disk><alias name='ua-data'/></disk>")
	f.Add("<memory><target><size unit='KiB'>1</size></target><alias name='ua-x'/></memory>")
	f.Fuzz(func(t *testing.T, text string) {
		v, err := parseDevice(text)
		if err == nil && v.name() == "" {
			t.Errorf("%q has no name", text)
		}
	})
}
