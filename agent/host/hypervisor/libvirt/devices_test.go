package libvirt

import (
	"encoding/xml"
	"errors"
	"testing"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

func TestDevicesAreKnownByTheirNames(t *testing.T) {
	list, err := parseDeviceList(`<domain><devices>
<emulator>/usr/bin/qemu</emulator>
<disk type='file'><source file='/a'><slices/></source><backingStore><source file='/b'/></backingStore><target dev='vda'/><alias name='ua-root'/></disk>
<disk type='file'><target dev='sda'/><alias name='sata0-0-0'/></disk>
<interface><target dev='tap1'/><alias name='ua-default'/></interface>
<memory model='virtio-mem'><target><size unit='KiB'>131072</size><block unit='KiB'>2048</block><requested unit='KiB'>4096</requested></target><alias name='ua-extra'/></memory>
</devices></domain>`)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"root": "vda", "default": "tap1", "extra": ""} {
		v, ok := list.named(name)
		if !ok || v.Target.Dev != want {
			t.Errorf("%s is %+v, %v", name, v, ok)
		}
	}
	for _, name := range []string{"sata0-0-0", "ua-root", "other"} {
		if v, ok := list.named(name); ok {
			t.Errorf("%q is %+v", name, v)
		}
	}
	if extra, _ := list.named("extra"); extra.Model != "virtio-mem" || extra.Target.Size.KiB != 131072 || extra.Target.Requested.KiB != 4096 {
		t.Errorf("the memory device reads %+v", extra)
	}
	if _, err := parseDeviceList("<network/>"); err == nil {
		t.Error("what is no domain was read")
	}
	if empty, err := parseDeviceList("<domain/>"); err != nil || len(empty) != 0 {
		t.Errorf("a domain without devices has %v, %v", empty, err)
	}
}

func TestDeviceMustBearAName(t *testing.T) {
	for text, name := range map[string]string{
		"<disk><alias name='ua-data'/></disk>":                            "data",
		"<interface type='ethernet'><alias name='ua-a-b.c'/></interface>": "a-b.c",
		"<disk><alias name='data'/></disk>":                               "",
		"<disk><alias name='ua-'/></disk>":                                "",
		"<disk/>":                                                         "",
		"disk":                                                            "",
		"<disk><alias name='ua-data'/>":                                   "",
		"":                                                                "",
	} {
		v, err := parseDevice(text)
		if name == "" {
			if !errors.Is(err, hypervisor.ErrInvalid) {
				t.Errorf("%q: %+v, %v", text, v, err)
			}
			continue
		}
		if err != nil || v.name() != name {
			t.Errorf("%q: %q, %v", text, v.name(), err)
		}
	}
}

// TestDefinitionsAreChangedWhereThereIsSomethingToDo: a change that got half way before
// is finished, and one that is done is left.
func TestDefinitionsAreChangedWhereThereIsSomethingToDo(t *testing.T) {
	const live, config = libvirt.DOMAIN_DEVICE_MODIFY_LIVE, libvirt.DOMAIN_DEVICE_MODIFY_CONFIG
	list := func(there bool) deviceList {
		var v deviceXML
		if !there {
			return deviceList{v}
		}
		v.Alias.Name = "ua-data"
		return deviceList{{}, v}
	}
	for _, c := range []struct {
		inLive, inConfig bool
		attach, detach   libvirt.DomainDeviceModifyFlags
	}{
		{false, false, live | config, 0},
		{true, false, config, live},
		{false, true, live, config},
		{true, true, 0, live | config},
	} {
		d := definitions{live: list(c.inLive), config: list(c.inConfig)}
		if got := d.where("data", false); got != c.attach {
			t.Errorf("live %v, config %v: attach in %d, want %d", c.inLive, c.inConfig, got, c.attach)
		}
		if got := d.where("data", true); got != c.detach {
			t.Errorf("live %v, config %v: detach in %d, want %d", c.inLive, c.inConfig, got, c.detach)
		}
	}
}

func TestPluggedMemoryComesInBlocks(t *testing.T) {
	var device deviceXML
	device.Target.Size.KiB, device.Target.Block.KiB = 8192, 2048
	for want, plugged := range map[int64]int64{-5: 0, 0: 0, 1: 2048, 2048: 2048, 2049: 4096, 8191: 8192, 8192: 8192} {
		if got, err := pluggedMemory(want, device); err != nil || got != plugged {
			t.Errorf("%d KiB: %d, %v, want %d", want, got, err, plugged)
		}
	}
	if _, err := pluggedMemory(8193, device); !errors.Is(err, hypervisor.ErrInvalid) {
		t.Errorf("more than the device has: %v", err)
	}
	device.Target.Block.KiB = 0
	if got, err := pluggedMemory(7, device); err != nil || got != 7 {
		t.Errorf("without blocks: %d, %v", got, err)
	}
}

func TestBootedMemoryIsWithoutDevices(t *testing.T) {
	for text, want := range map[string]int64{
		"<domain><memory unit='KiB'>32768</memory></domain>": 32768,
		"<domain><memory unit='KiB'>196608</memory><devices><memory model='virtio-mem'><target><size unit='KiB'>131072</size></target></memory></devices></domain>": 65536,
	} {
		var m memoryXML
		if err := xml.Unmarshal([]byte(text), &m); err != nil {
			t.Fatal(err)
		}
		if got := m.booted(); got != want {
			t.Errorf("%s: %d KiB, want %d", text, got, want)
		}
	}
}

func TestUndefineKeepsWhatItIsTold(t *testing.T) {
	for _, c := range []struct {
		opts       hypervisor.UndefineOptions
		set, unset libvirt.DomainUndefineFlagsValues
	}{
		{hypervisor.UndefineOptions{}, libvirt.DOMAIN_UNDEFINE_NVRAM | libvirt.DOMAIN_UNDEFINE_TPM, libvirt.DOMAIN_UNDEFINE_KEEP_NVRAM},
		{hypervisor.UndefineOptions{KeepNVRAM: true}, libvirt.DOMAIN_UNDEFINE_KEEP_NVRAM | libvirt.DOMAIN_UNDEFINE_TPM, libvirt.DOMAIN_UNDEFINE_NVRAM},
		{hypervisor.UndefineOptions{KeepTPM: true}, libvirt.DOMAIN_UNDEFINE_NVRAM, libvirt.DOMAIN_UNDEFINE_TPM | libvirt.DOMAIN_UNDEFINE_KEEP_NVRAM},
		{hypervisor.UndefineOptions{KeepNVRAM: true, KeepTPM: true}, libvirt.DOMAIN_UNDEFINE_KEEP_NVRAM, libvirt.DOMAIN_UNDEFINE_NVRAM | libvirt.DOMAIN_UNDEFINE_TPM},
	} {
		got := undefineFlags(c.opts)
		if got&c.set != c.set || got&c.unset != 0 {
			t.Errorf("%+v: flags %b", c.opts, got)
		}
	}
}

func TestDeviceNamesOfADefinition(t *testing.T) {
	names, err := parseDeviceNames(`<domain type='qemu'><devices>
<disk type='file' device='disk'><target dev='vda'/><alias name='ua-root'/></disk><disk type='file' device='cdrom'><target dev='sda'/></disk>
<interface type='ethernet'><target dev='tap1'/><alias name='ua-default'/></interface></devices></domain>`)
	if err != nil || names["vda"] != "root" || names["tap1"] != "default" {
		t.Errorf("names %v, %v", names, err)
	}
	if !names.cover([]string{"vda", "sda", "tap1"}) || names.cover([]string{"vda", "vdb"}) {
		t.Error("it covers what is not there, or not what is")
	}
	if none, err := parseDeviceNames("<domain type='qemu'/>"); err != nil || len(none) != 0 {
		t.Errorf("a domain without devices has %v, %v", none, err)
	}
	if got := instanceName(&libvirtxml.DomainAlias{Name: "ua-x"}); got != "x" {
		t.Errorf("name %q", got)
	}
	c := newNameCache()
	c.names["u"] = cachedNames{instance: "i", names: names}
	if _, ok := c.find("u", "i", []string{"vda"}); !ok {
		t.Error("the names of an instance are not found")
	}
	if _, ok := c.find("u", "next", []string{"vda"}); ok {
		t.Error("the machine's next instance is given the names of the one before")
	}
	c.forget("u")
	if len(c.names) != 0 {
		t.Error("names of a guest that has ended are kept")
	}
}
