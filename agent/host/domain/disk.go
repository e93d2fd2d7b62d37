package domain

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"

	machine "virtmesh/agent/vmi"
)

// disks adds the disks, LUNs and CD-ROM drives.
func disks(c *conversion) {
	names := newDeviceNames(c.VMI.Status.VolumeStatus)
	plan := planIOThreads(c.VMI)
	seen := map[string]bool{}
	for i, d := range c.domain.Devices.Disks {
		path := c.root.Child("devices", "disks").Index(i)
		if d.Name == "" || seen[d.Name] {
			c.invalid(path.Child("name"), d.Name, "must be set and unique")
			continue
		}
		seen[d.Name] = true
		source, ok := c.Disks[d.Name]
		if !ok {
			c.invalid(path.Child("name"), d.Name, "its volume has not been prepared")
			continue
		}
		out := disk(c, path, d, source, names)
		if thread, ok := plan.byDisk[d.Name]; ok {
			out.Driver.IOThread = &thread
		}
		c.out.Devices.Disks = append(c.out.Devices.Disks, out)
	}
}

// disk converts one disk.
func disk(c *conversion, path *field.Path, d v1.Disk, source Disk, names *deviceNames) libvirtxml.DomainDisk {
	out := libvirtxml.DomainDisk{
		Driver: diskDriver(c, path, d, source),
		Source: diskSource(c, path, source),
		Serial: d.Serial,
		Alias:  userAlias(d.Name),
	}
	if d.BootOrder != nil {
		if *d.BootOrder == 0 {
			c.invalid(path.Child("bootOrder"), *d.BootOrder, "must be at least 1")
		}
		out.Boot = &libvirtxml.DomainDeviceBoot{Order: *d.BootOrder}
	}
	if source.Format == "qcow2" {
		out.BackingStore = backingStore(source.Backing)
	}
	readOnly := diskDevice(c, path, d, &out, names)
	if source.Path == "" && source.Network == nil {
		if out.Device != "cdrom" {
			c.invalid(path.Child("name"), d.Name, "its volume has no path; only a CD-ROM drive can be empty")
		}
		out.Source, out.BackingStore = nil, nil
	}
	switch ata := out.Device == "disk" && out.Target.Bus == string(v1.DiskBusSATA); {
	case !ata && (readOnly || source.ReadOnly):
		out.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
	case ata && readOnly:
		// ATA disks have no write protection, and libvirt refuses to set it. A
		// cloud-init seed, which is on this bus by default, is therefore left writable:
		// the guest can only damage its own copy.
		c.unsupported(path.Child("disk", "readonly"), true, "a disk on sata cannot be read-only: use another bus or a cdrom")
	}
	if enabled(d.Shareable, false) || source.Shareable {
		if d.Cache != "" && d.Cache != v1.CacheNone {
			c.invalid(path.Child("cache"), d.Cache, "a shareable disk must not be cached: use none")
		}
		out.Driver.Cache = string(v1.CacheNone)
		out.Shareable = &libvirtxml.DomainDiskShareable{}
	}
	out.BlockIO = blockIO(c, path, d, source)
	return out
}

// diskDevice sets the kind of device that the guest sees, and returns whether the disk
// is read-only.
func diskDevice(c *conversion, path *field.Path, d v1.Disk, out *libvirtxml.DomainDisk, names *deviceNames) bool {
	bus := diskBus(d)
	var kind string
	var buses []v1.DiskBus
	readOnly := false
	out.Target = &libvirtxml.DomainDiskTarget{}
	switch {
	case d.LUN != nil:
		out.Device, kind = "lun", "lun"
		buses = []v1.DiskBus{v1.DiskBusSCSI, v1.DiskBusVirtio}
		readOnly = d.LUN.ReadOnly
		if d.LUN.Reservation {
			c.unsupported(path.Child("lun", "reservation"), true, "persistent reservations are not passed on")
		}
	case d.CDRom != nil:
		out.Device, kind = "cdrom", "cdrom"
		buses = []v1.DiskBus{v1.DiskBusSATA, v1.DiskBusSCSI, v1.DiskBusUSB}
		readOnly = enabled(d.CDRom.ReadOnly, true)
		out.Target.Tray = string(d.CDRom.Tray)
	default:
		out.Device, kind = "disk", "disk"
		buses = []v1.DiskBus{v1.DiskBusVirtio, v1.DiskBusSATA, v1.DiskBusSCSI, v1.DiskBusUSB}
		if d.Disk != nil {
			readOnly = d.Disk.ReadOnly
			out.Address = pciAddress(c, path.Child("disk", "pciAddress"), d.Disk.PciAddress)
			if d.Disk.PciAddress != "" && bus != v1.DiskBusVirtio {
				c.invalid(path.Child("disk", "pciAddress"), d.Disk.PciAddress, "only a virtio disk has one")
			}
		}
	}
	if !slices.Contains(buses, bus) {
		c.invalid(path.Child(kind, "bus"), bus, "a %s can be on %s", kind, joinBuses(buses))
		return readOnly
	}
	out.Target.Bus = string(bus)
	out.Target.Dev = names.next(d.Name, bus)
	if bus == v1.DiskBusVirtio {
		out.Model = c.virtioModel()
		if enabled(c.domain.Devices.BlockMultiQueue, false) {
			out.Driver.Queues = ptr(uint(machine.TopologyOf(&c.VMI.Spec).VCPUs()))
		}
	}
	return readOnly
}

// diskDriver says how QEMU reads and writes the disk.
func diskDriver(c *conversion, path *field.Path, d v1.Disk, source Disk) *libvirtxml.DomainDiskDriver {
	driver := &libvirtxml.DomainDiskDriver{Name: "qemu", Type: source.Format, ErrorPolicy: "stop"}
	switch source.Format {
	case "raw", "qcow2":
	case "":
		if source.Path != "" || source.Network != nil {
			c.invalid(path.Child("name"), d.Name, "the format of its volume is not known")
		}
		driver.Type = "raw"
	default:
		c.unsupported(path.Child("name"), d.Name, "its volume has format %q, not raw or qcow2", source.Format)
	}
	if p := d.ErrorPolicy; p != nil {
		switch *p {
		case v1.DiskErrorPolicyStop, v1.DiskErrorPolicyIgnore, v1.DiskErrorPolicyReport, v1.DiskErrorPolicyEnospace:
			driver.ErrorPolicy = string(*p)
		default:
			c.invalid(path.Child("errorPolicy"), *p, "must be stop, ignore, report or enospace")
		}
	}
	driver.Cache = cacheMode(c, path, d, source)
	driver.IO = ioMode(c, path, d, source, driver.Cache)
	if d.CDRom == nil && !source.NoDiscard {
		driver.Discard = "unmap"
	}
	return driver
}

// cacheMode bypasses the host's page cache where that is possible, which also makes
// live migration safe. Elsewhere it selects a write-through cache.
func cacheMode(c *conversion, path *field.Path, d v1.Disk, source Disk) string {
	direct := source.DirectIO && (source.Backing == nil || source.Backing.DirectIO)
	switch d.Cache {
	case "":
		if source.Path == "" && source.Network == nil {
			return ""
		}
		if direct || source.Type == DiskNetwork {
			return string(v1.CacheNone)
		}
		return string(v1.CacheWriteThrough)
	case v1.CacheNone:
		if !direct && source.Type != DiskNetwork {
			c.unsupported(path.Child("cache"), d.Cache, "the volume's file system does not support direct I/O")
		}
	case v1.CacheWriteThrough, v1.CacheWriteBack:
	default:
		c.invalid(path.Child("cache"), d.Cache, "must be none, writethrough or writeback")
	}
	return string(d.Cache)
}

// ioMode selects the kernel's asynchronous I/O where that does not block: on devices
// and on files without holes, and only if the page cache is bypassed.
func ioMode(c *conversion, path *field.Path, d v1.Disk, source Disk, cache string) string {
	switch d.IO {
	case "":
		if cache == string(v1.CacheNone) && (source.Type == DiskBlock || (source.Type == DiskFile && source.Preallocated)) {
			return string(v1.IONative)
		}
		return ""
	case v1.IONative:
		if cache != string(v1.CacheNone) {
			c.invalid(path.Child("io"), d.IO, "needs cache none, the disk has %q", cache)
		}
	case v1.IOThreads:
	default:
		c.invalid(path.Child("io"), d.IO, "must be native or threads")
	}
	return string(d.IO)
}

// diskSource says where the data is.
func diskSource(c *conversion, path *field.Path, source Disk) *libvirtxml.DomainDiskSource {
	switch source.Type {
	case DiskFile, "":
		return &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: source.Path}}
	case DiskBlock:
		return &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: source.Path}}
	case DiskNetwork:
		if source.Network != nil {
			return networkSource(source.Network)
		}
	}
	c.unsupported(path.Child("name"), nil, "its volume is of type %q", source.Type)
	return nil
}

func networkSource(n *NetworkDisk) *libvirtxml.DomainDiskSource {
	out := &libvirtxml.DomainDiskSourceNetwork{Protocol: n.Protocol, Name: n.Name}
	for _, h := range n.Hosts {
		host := libvirtxml.DomainDiskSourceHost{Name: h.Name, Port: h.Port}
		if h.Socket != "" {
			host = libvirtxml.DomainDiskSourceHost{Transport: "unix", Socket: h.Socket}
		}
		out.Hosts = append(out.Hosts, host)
	}
	if n.User != "" {
		out.Auth = &libvirtxml.DomainDiskAuth{
			Username: n.User,
			Secret:   &libvirtxml.DomainDiskSecret{Type: "ceph", UUID: n.SecretUUID},
		}
	}
	return &libvirtxml.DomainDiskSource{Network: out}
}

// backingStore names the images below an overlay. It is never nil: an empty element
// ends the chain, and QEMU ignores what the image's own header names. The images are
// shared, so they stay whose they are: a guest that broke out of QEMU could otherwise
// write into the image that others start from.
func backingStore(backing *Disk) *libvirtxml.DomainDiskBackingStore {
	out := &libvirtxml.DomainDiskBackingStore{}
	if backing == nil {
		return out
	}
	out.Format = &libvirtxml.DomainDiskFormat{Type: backing.Format}
	switch {
	case backing.Network != nil:
		out.Source = networkSource(backing.Network)
	case backing.Type == DiskBlock:
		out.Source = &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: backing.Path, SecLabel: leftAlone()}}
	default:
		out.Source = &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: backing.Path, SecLabel: leftAlone()}}
	}
	out.BackingStore = backingStore(backing.Backing)
	return out
}

// blockIO sets the block sizes that the guest sees.
func blockIO(c *conversion, path *field.Path, d v1.Disk, source Disk) *libvirtxml.DomainDiskBlockIO {
	b := d.BlockSize
	switch {
	case b == nil:
		return nil
	case b.Custom != nil:
		if b.Custom.Logical == 0 || b.Custom.Physical < b.Custom.Logical {
			c.invalid(path.Child("blockSize", "custom"), nil, "physical must not be less than logical, and both must be set")
		}
		return &libvirtxml.DomainDiskBlockIO{
			LogicalBlockSize: b.Custom.Logical, PhysicalBlockSize: b.Custom.Physical, DiscardGranularity: b.Custom.DiscardGranularity,
		}
	case b.MatchVolume != nil && enabled(b.MatchVolume.Enabled, true):
		logical, physical := source.LogicalBlockSize, source.PhysicalBlockSize
		if logical == 0 {
			c.unsupported(path.Child("blockSize", "matchVolume"), nil, "the volume's block size is not known")
			return nil
		}
		return &libvirtxml.DomainDiskBlockIO{LogicalBlockSize: logical, PhysicalBlockSize: max(logical, physical)}
	}
	return nil
}

// diskBus returns the bus of d, or KubeVirt's default if d names none.
func diskBus(d v1.Disk) v1.DiskBus {
	bus := v1.DiskBus("")
	byDefault := v1.DiskBusVirtio
	switch {
	case d.LUN != nil:
		bus, byDefault = d.LUN.Bus, v1.DiskBusSCSI
	case d.CDRom != nil:
		bus, byDefault = d.CDRom.Bus, v1.DiskBusSATA
	case d.Disk != nil:
		bus = d.Disk.Bus
	}
	if bus == "" {
		return byDefault
	}
	return bus
}

func joinBuses(buses []v1.DiskBus) string {
	names := make([]string, len(buses))
	for i, b := range buses {
		names[i] = string(b)
	}
	return strings.Join(names, ", ")
}
