package vmi

import (
	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// firmwareNamespace is the UUID namespace from which KubeVirt derives the firmware
// UUIDs of instances. Because it is the same, a guest keeps its identity when it moves
// here from KubeVirt.
var firmwareNamespace = uuid.MustParse("6a1a24a1-4061-4607-8bf4-a3963d0c5895")

// FirmwareUUID returns the firmware UUID of an instance that was given none: the
// same one each time an instance of the name starts.
func FirmwareUUID(name string) types.UID {
	return types.UID(uuid.NewSHA1(firmwareNamespace, []byte(name)).String())
}

// NewIdentity gives a new VirtualMachine the hardware identity that its guest sees:
// a UUID and a serial number of its own, where its template names none. They are
// stored in the template, as KubeVirt does since its version 1.7, so the machine is
// the same to its guest after every start, and after it was exported and made again.
func NewIdentity(spec *kubevirtv1.VirtualMachineInstanceSpec) {
	f := firmwareOf(spec)
	if f.UUID == "" {
		f.UUID = types.UID(uuid.NewString())
	}
	if f.Serial == "" {
		f.Serial = uuid.NewString()
	}
}

// KeepIdentity copies the identity of the previous template into a changed template
// that names none. A user who replaces a VirtualMachine with a manifest without an
// identity does not want a new machine.
func KeepIdentity(spec, before *kubevirtv1.VirtualMachineInstanceSpec) {
	if before.Domain.Firmware == nil {
		return
	}
	f := firmwareOf(spec)
	if f.UUID == "" {
		f.UUID = before.Domain.Firmware.UUID
	}
	if f.Serial == "" {
		f.Serial = before.Domain.Firmware.Serial
	}
}

// SetIdentity gives an instance the identity that KubeVirt derives from the instance's
// name, if spec has none. That is the case for instances without a VirtualMachine, and
// for instances of a VirtualMachine whose template has lost its identity.
func SetIdentity(spec *kubevirtv1.VirtualMachineInstanceSpec, name string) {
	f := firmwareOf(spec)
	if f.UUID == "" {
		f.UUID = FirmwareUUID(name)
	}
	if f.Serial == "" {
		f.Serial = string(f.UUID)
	}
}

// firmwareOf returns the firmware of spec, and adds an empty one if there is none.
func firmwareOf(spec *kubevirtv1.VirtualMachineInstanceSpec) *kubevirtv1.Firmware {
	if spec.Domain.Firmware == nil {
		spec.Domain.Firmware = &kubevirtv1.Firmware{}
	}
	return spec.Domain.Firmware
}

// setDiskBuses sets the bus of each disk that names none to the bus that guests of the
// architecture support without extra drivers. A LUN needs SCSI commands, which SATA
// does not pass on.
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
