package vmi

import (
	"fmt"
	"regexp"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

const (
	maxSerial    = 256
	minBlockSize = 512
	maxBlockSize = 2 << 20
)

var (
	serial    = regexp.MustCompile(`^[A-Za-z0-9_.+-]+$`)
	diskBuses = []kubevirtv1.DiskBus{kubevirtv1.DiskBusVirtio, kubevirtv1.DiskBusSCSI, kubevirtv1.DiskBusSATA, kubevirtv1.DiskBusUSB}
)

func validateDisks(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	at = at.Child("domain", "devices", "disks")
	volumes := map[string]*kubevirtv1.Volume{}
	for i := range spec.Volumes {
		volumes[spec.Volumes[i].Name] = &spec.Volumes[i]
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i := range spec.Domain.Devices.Disks {
		disk := &spec.Domain.Devices.Disks[i]
		p := at.Index(i)
		if seen[disk.Name] {
			errs = append(errs, field.Duplicate(p.Child("name"), disk.Name))
		}
		seen[disk.Name] = true
		errs = append(errs, messages(p.Child("name"), disk.Name, validation.IsDNS1123Label(disk.Name))...)
		errs = append(errs, validateDiskVolume(p, disk, volumes[disk.Name])...)
		errs = append(errs, validateDiskTarget(p, disk)...)
		errs = append(errs, validateDriver(p, disk)...)
		errs = append(errs, validateBlockSize(p.Child("blockSize"), disk)...)
	}
	return errs
}

// validateDiskVolume checks that each disk has a volume, of a kind that can be shown as
// such a disk. Only a CD-ROM drive may be empty.
func validateDiskVolume(at *field.Path, disk *kubevirtv1.Disk, volume *kubevirtv1.Volume) field.ErrorList {
	if volume == nil {
		if disk.CDRom != nil {
			return nil
		}
		return field.ErrorList{field.Invalid(at.Child("name"), disk.Name, "no volume of spec.volumes has this name")}
	}
	var errs field.ErrorList
	if disk.LUN != nil && volume.PersistentVolumeClaim == nil && volume.DataVolume == nil {
		errs = append(errs, field.Invalid(at.Child("lun"), disk.Name, "can only be mapped to a DataVolume or PersistentVolumeClaim volume."))
	}
	if volume.DownwardMetrics != nil && (disk.Disk == nil || disk.Disk.Bus != "" && disk.Disk.Bus != kubevirtv1.DiskBusVirtio) {
		errs = append(errs, field.Invalid(at.Child("disk", "bus"), disk.Name, "DownwardMetrics volume must be mapped to a disk on the virtio bus"))
	}
	return errs
}

func validateDiskTarget(at *field.Path, disk *kubevirtv1.Disk) field.ErrorList {
	var errs field.ErrorList
	kind, bus, count := "disk", kubevirtv1.DiskBus(""), 0
	if disk.Disk != nil {
		bus, count = disk.Disk.Bus, count+1
	}
	if disk.LUN != nil {
		kind, bus, count = "lun", disk.LUN.Bus, count+1
	}
	if disk.CDRom != nil {
		kind, bus, count = "cdrom", disk.CDRom.Bus, count+1
	}
	if disk.LUN != nil && disk.LUN.Reservation {
		errs = append(errs, field.Forbidden(at.Child("lun", "reservation"), "persistent reservations are not passed on in this version"))
	}
	if disk.CDRom != nil {
		errs = append(errs, optional(at.Child("cdrom", "tray"), disk.CDRom.Tray, kubevirtv1.TrayStateOpen, kubevirtv1.TrayStateClosed)...)
	}
	if count > 1 {
		return field.ErrorList{field.Invalid(at, disk.Name, "can only have a single target type defined")}
	}
	path := at.Child(kind, "bus")
	switch {
	case bus == "":
	case disk.LUN != nil && (bus == kubevirtv1.DiskBusSATA || bus == kubevirtv1.DiskBusUSB):
		errs = append(errs, field.Invalid(path, bus, "the bus is invalid for a LUN: use scsi or virtio"))
	case bus == kubevirtv1.DiskBusVirtio && disk.CDRom != nil:
		errs = append(errs, field.Invalid(path, bus, "the bus is invalid for a CD-ROM device"))
	case bus == kubevirtv1.DiskBusSATA && disk.Disk != nil && disk.Disk.ReadOnly:
		errs = append(errs, field.Invalid(path, bus, "hard-disks on this bus do not support read-only."))
	default:
		errs = append(errs, oneOf(path, bus, diskBuses)...)
	}
	if d := disk.DedicatedIOThread; d != nil && *d && bus != "" && bus != kubevirtv1.DiskBusVirtio {
		errs = append(errs, field.Invalid(at.Child("dedicatedIOThread"), true, fmt.Sprintf("IOThreads are not supported for disks on a %s bus", bus)))
	}
	if disk.Disk != nil && disk.Disk.PciAddress != "" {
		pci := at.Child("disk", "pciAddress")
		if bus != kubevirtv1.DiskBusVirtio {
			errs = append(errs, field.Invalid(pci, disk.Disk.PciAddress, "setting a PCI address is only possible with bus type virtio."))
		}
		if !pciAddress.MatchString(disk.Disk.PciAddress) {
			errs = append(errs, field.Invalid(pci, disk.Disk.PciAddress, "malformed PCI address"))
		}
	}
	return errs
}

func validateDriver(at *field.Path, disk *kubevirtv1.Disk) field.ErrorList {
	var errs field.ErrorList
	if disk.Serial != "" && !serial.MatchString(disk.Serial) {
		errs = append(errs, field.Invalid(at.Child("serial"), disk.Serial, "must be made up of the following characters [A-Za-z0-9_.+-], if specified"))
	}
	if len(disk.Serial) > maxSerial {
		errs = append(errs, field.TooLong(at.Child("serial"), disk.Serial, maxSerial))
	}
	if disk.Cache != "" {
		errs = append(errs, oneOf(at.Child("cache"), disk.Cache, []kubevirtv1.DriverCache{
			kubevirtv1.CacheNone, kubevirtv1.CacheWriteThrough, kubevirtv1.CacheWriteBack})...)
	}
	if shared := isTrue(disk.Shareable); shared && disk.Cache != "" && disk.Cache != kubevirtv1.CacheNone {
		errs = append(errs, field.Invalid(at.Child("cache"), disk.Cache, "a shareable disk must not be cached: use none"))
	}
	if disk.IO == kubevirtv1.IONative && disk.Cache != "" && disk.Cache != kubevirtv1.CacheNone {
		errs = append(errs, field.Invalid(at.Child("io"), disk.IO, "native needs cache none"))
	}
	if disk.IO != "" {
		errs = append(errs, oneOf(at.Child("io"), disk.IO, []kubevirtv1.DriverIO{kubevirtv1.IONative, kubevirtv1.IOThreads})...)
	}
	if disk.ErrorPolicy != nil {
		errs = append(errs, oneOf(at.Child("errorPolicy"), *disk.ErrorPolicy, []kubevirtv1.DiskErrorPolicy{
			kubevirtv1.DiskErrorPolicyStop, kubevirtv1.DiskErrorPolicyIgnore, kubevirtv1.DiskErrorPolicyReport, kubevirtv1.DiskErrorPolicyEnospace})...)
	}
	return errs
}

func validateBlockSize(at *field.Path, disk *kubevirtv1.Disk) field.ErrorList {
	if disk.BlockSize == nil || disk.BlockSize.Custom == nil {
		return nil
	}
	if m := disk.BlockSize.MatchVolume; m != nil && (m.Enabled == nil || *m.Enabled) {
		return field.ErrorList{field.Invalid(at, "matchVolume and custom", "Block size matching can't be enabled together with a custom value")}
	}
	custom := disk.BlockSize.Custom
	at = at.Child("custom")
	var errs field.ErrorList
	for _, size := range []struct {
		name  string
		value uint
	}{{"logical", custom.Logical}, {"physical", custom.Physical}} {
		if size.value < minBlockSize || size.value > maxBlockSize || size.value&(size.value-1) != 0 {
			errs = append(errs, field.Invalid(at.Child(size.name), size.value, fmt.Sprintf("must be a power of 2 from %d to %d", minBlockSize, maxBlockSize)))
		}
	}
	if custom.Logical > custom.Physical {
		errs = append(errs, field.Invalid(at.Child("logical"), custom.Logical, "must be the same or less than the physical size"))
	}
	if disk.Disk != nil && disk.Disk.Bus == kubevirtv1.DiskBusSATA && custom.Logical != minBlockSize {
		errs = append(errs, field.Invalid(at.Child("logical"), custom.Logical, "must be 512 for SATA devices"))
	}
	return errs
}

// validateBootOrder reports values of bootOrder that are used more than once.
func validateBootOrder(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	at = at.Child("domain", "devices")
	var errs field.ErrorList
	taken := map[uint]bool{}
	check := func(p *field.Path, order *uint) {
		switch {
		case order == nil:
		case *order < 1:
			errs = append(errs, field.Invalid(p, *order, "must have a boot order > 0, if supplied"))
		case taken[*order]:
			errs = append(errs, field.Duplicate(p, *order))
		default:
			taken[*order] = true
		}
	}
	for i, d := range spec.Domain.Devices.Disks {
		check(at.Child("disks").Index(i).Child("bootOrder"), d.BootOrder)
	}
	for i, n := range spec.Domain.Devices.Interfaces {
		check(at.Child("interfaces").Index(i).Child("bootOrder"), n.BootOrder)
	}
	return errs
}
