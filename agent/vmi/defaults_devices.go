package vmi

import (
	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// firmwareNamespace is the UUID namespace that KubeVirt derives the firmware
// UUIDs of instances from: a guest keeps its identity when it moves here.
var firmwareNamespace = uuid.MustParse("6a1a24a1-4061-4607-8bf4-a3963d0c5895")

// FirmwareUUID returns the firmware UUID of an instance that was given none: the
// same one each time an instance of the name starts.
func FirmwareUUID(name string) types.UID {
	return types.UID(uuid.NewSHA1(firmwareNamespace, []byte(name)).String())
}

// SetIdentity gives the machine of a name the hardware identity that its guest
// sees, if spec does not: the UUID that KubeVirt derives from the name, and the
// same as the serial number. It only depends on the manifest, so a machine that is
// exported, deleted and made again, here or elsewhere, is the same to its guest.
func SetIdentity(spec *kubevirtv1.VirtualMachineInstanceSpec, name string) {
	if name == "" {
		return // one is generated, and its instances are given their identity later
	}
	if spec.Domain.Firmware == nil {
		spec.Domain.Firmware = &kubevirtv1.Firmware{}
	}
	f := spec.Domain.Firmware
	if f.UUID == "" {
		f.UUID = FirmwareUUID(name)
	}
	if f.Serial == "" {
		f.Serial = string(f.UUID)
	}
}

// setDiskBuses puts each disk without a bus on the one that guests of the
// architecture find without drivers. A LUN speaks SCSI, which SATA does not pass on.
func setDiskBuses(spec *kubevirtv1.VirtualMachineInstanceSpec) {
	bus := kubevirtv1.DiskBusVirtio
	if spec.Architecture == "amd64" {
		bus = kubevirtv1.DiskBusSATA
	}
	for i := range spec.Domain.Devices.Disks {
		d := &spec.Domain.Devices.Disks[i].DiskDevice
		if d.LUN != nil && d.LUN.Bus == "" {
			d.LUN.Bus = kubevirtv1.DiskBusSCSI
		}
		for _, p := range busesOf(d) {
			if *p == "" {
				*p = bus
			}
		}
	}
}

// busesOf returns the bus fields of a device.
func busesOf(d *kubevirtv1.DiskDevice) []*kubevirtv1.DiskBus {
	var buses []*kubevirtv1.DiskBus
	if d.Disk != nil {
		buses = append(buses, &d.Disk.Bus)
	}
	if d.CDRom != nil {
		buses = append(buses, &d.CDRom.Bus)
	}
	if d.LUN != nil {
		buses = append(buses, &d.LUN.Bus)
	}
	return buses
}

func setWatchdog(spec *kubevirtv1.VirtualMachineInstanceSpec) {
	dog := spec.Domain.Devices.Watchdog
	if dog == nil || spec.Architecture != "amd64" {
		return
	}
	if dog.I6300ESB == nil {
		dog.I6300ESB = &kubevirtv1.I6300ESBWatchdog{}
	}
	if dog.I6300ESB.Action == "" {
		dog.I6300ESB.Action = kubevirtv1.WatchdogActionReset
	}
}
