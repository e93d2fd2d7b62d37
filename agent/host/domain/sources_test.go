package domain

import (
	"errors"
	"strings"
	"testing"

	v1 "kubevirt.io/api/core/v1"
)

// definitionOf converts the typical machine with a change, and returns its XML.
func definitionOf(t *testing.T, change func(in *Input)) string {
	t.Helper()
	in := prepared
	in.VMI, in.Machine = load(t, "typical"), kvmHost
	change(&in)
	out, _, err := Convert(in)
	if err != nil {
		t.Fatal(err)
	}
	xml, err := out.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(xml), " ")
}

// What a machine leaves out is given to it as the API would have, and where its disks
// come from is said in libvirt's words.
func TestPartsOfADefinition(t *testing.T) {
	backing := func(b Disk) func(in *Input) {
		return func(in *Input) { rootDisk(in, func(d *Disk) { d.Backing = &b }) }
	}
	ceph := &NetworkDisk{Protocol: "rbd", Name: "pool/base", Hosts: []NetworkHost{{Name: "mon1", Port: "6789"}}}
	hotplug := func(bus v1.DiskBus, disabled bool) func(in *Input) {
		return func(in *Input) {
			devicesOf(in).DisableHotplug = disabled
			firstDisk(in).Disk.Bus = bus
		}
	}
	for name, tc := range map[string]struct {
		change func(in *Input)
		part   string
		absent bool
	}{
		"an image on a device": {backing(Disk{Type: DiskBlock, Path: "/dev/vg/base", Format: "raw"}), `<source dev="/dev/vg/base"> <seclabel model="dac" relabel="no">`, false},
		"an image in a file":   {backing(Disk{Type: DiskFile, Path: "/images/base.raw", Format: "raw"}), `<source file="/images/base.raw"> <seclabel model="dac" relabel="no">`, false},
		"an image of Ceph":     {backing(Disk{Type: DiskNetwork, Network: ceph, Format: "raw"}), `<source protocol="rbd" name="pool/base"> <host name="mon1" port="6789"></host>`, false},
		"a disk behind a socket": {func(in *Input) {
			rootDisk(in, func(d *Disk) {
				*d = Disk{Type: DiskNetwork, Format: "raw", Network: &NetworkDisk{Protocol: "nbd", Name: "root", Hosts: []NetworkHost{{Socket: "/run/nbd.sock"}}}}
			})
		}, `<host transport="unix" socket="/run/nbd.sock"></host>`, false},
		"a disk without a password": {func(in *Input) {
			rootDisk(in, func(d *Disk) { *d = Disk{Type: DiskNetwork, Format: "raw", Network: ceph} })
		}, `<auth`, true},
		"a tablet": {func(in *Input) { devicesOf(in).Inputs = []v1.Input{{Name: "tablet", Type: v1.InputTypeTablet}} }, `<input type="tablet" bus="usb">`, false},
		"a watchdog": {func(in *Input) {
			devicesOf(in).Watchdog = &v1.Watchdog{Name: "dog", WatchdogDevice: v1.WatchdogDevice{I6300ESB: &v1.I6300ESBWatchdog{}}}
		}, `<watchdog model="i6300esb" action="reset">`, false},
		"disks can be plugged":         {hotplug("virtio", false), `<controller type="scsi"`, false},
		"no disks can be plugged":      {hotplug("virtio", true), `<controller type="scsi"`, true},
		"no more disks can be plugged": {hotplug("scsi", true), `<controller type="scsi"`, false},
	} {
		xml := definitionOf(t, tc.change)
		if strings.Contains(xml, tc.part) == tc.absent {
			t.Errorf("%s: has %s: %v, in %s", name, tc.part, !tc.absent, xml)
		}
	}
}

// Encrypted memory is refused by the name of its kind, and nothing is no machine.
func TestWhatNoHostCanGiveIsNamed(t *testing.T) {
	for field, launch := range map[string]v1.LaunchSecurity{
		"spec.domain.launchSecurity.sev": {SEV: &v1.SEV{}}, "spec.domain.launchSecurity.snp": {SNP: &v1.SEVSNP{}},
		"spec.domain.launchSecurity.tdx": {TDX: &v1.TDX{}}, "spec.domain.launchSecurity": {},
	} {
		in := prepared
		in.VMI, in.Machine = load(t, "typical"), kvmHost
		in.VMI.Spec.Domain.LaunchSecurity = &launch
		_, _, err := Convert(in)
		if all := fieldErrors(err); len(all) != 1 || all[0].Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	_, _, err := Convert(Input{})
	var field *FieldError
	if err == nil || errors.As(err, &field) {
		t.Errorf("nothing is converted: %v", err)
	}
}
