package domain

import (
	"net"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"
)

// nicModels are the network cards that QEMU emulates for a guest.
var nicModels = []string{"e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139", v1.VirtIO}

// interfaces adds the network cards. Their taps exist before the domain does, and the
// domain does not say how the taps are connected. The taps have one queue, and QEMU
// cannot open an existing tap with more queues than it was created with.
func interfaces(c *conversion) {
	if enabled(c.domain.Devices.NetworkInterfaceMultiQueue, false) {
		c.warn(c.root.Child("devices", "networkInterfaceMultiqueue"), "the interfaces have one queue each")
	}
	networks := map[string]bool{}
	for _, n := range c.VMI.Spec.Networks {
		networks[n.Name] = true
	}
	seen := map[string]bool{}
	for i, iface := range c.domain.Devices.Interfaces {
		path := c.root.Child("devices", "interfaces").Index(i)
		if iface.State == v1.InterfaceStateAbsent {
			continue
		}
		if iface.Name == "" || seen[iface.Name] {
			c.invalid(path.Child("name"), iface.Name, "must be set and unique")
			continue
		}
		seen[iface.Name] = true
		if !networks[iface.Name] {
			c.invalid(path.Child("name"), iface.Name, "no network has this name")
			continue
		}
		nic, ok := c.NICs[iface.Name]
		if !ok {
			c.invalid(path.Child("name"), iface.Name, "its network has not been prepared")
			continue
		}
		if nic.PCI != "" {
			passedThroughNIC(c, path, iface, nic)
			continue
		}
		c.out.Devices.Interfaces = append(c.out.Devices.Interfaces, networkInterface(c, path, iface, nic))
	}
}

func networkInterface(c *conversion, path *field.Path, iface v1.Interface, nic NIC) libvirtxml.DomainInterface {
	out := libvirtxml.DomainInterface{
		Model:   &libvirtxml.DomainInterfaceModel{Type: nicModel(c, path, iface)},
		Alias:   userAlias(iface.Name),
		Address: pciAddress(c, path.Child("pciAddress"), iface.PciAddress),
	}
	if nic.TapDevice == "" {
		c.invalid(path.Child("name"), iface.Name, "its network has no device on this host")
	}
	out.Source = &libvirtxml.DomainInterfaceSource{Ethernet: &libvirtxml.DomainInterfaceSourceEthernet{}}
	out.Target = &libvirtxml.DomainInterfaceTarget{Dev: nic.TapDevice, Managed: "no"}
	out.MAC = macAddress(c, path, iface, nic)
	if nic.MTU > 0 {
		out.MTU = &libvirtxml.DomainInterfaceMTU{Size: uint(nic.MTU)}
	}
	if iface.BootOrder != nil {
		if *iface.BootOrder == 0 {
			c.invalid(path.Child("bootOrder"), *iface.BootOrder, "must be at least 1")
		}
		out.Boot = &libvirtxml.DomainDeviceBoot{Order: *iface.BootOrder}
	} else {
		// A card without a boot ROM costs the firmware no time.
		out.ROM = &libvirtxml.DomainROM{Enabled: "no"}
	}
	if iface.ACPIIndex > 0 {
		out.ACPI = &libvirtxml.DomainDeviceACPI{Index: uint(iface.ACPIIndex)}
	}
	if iface.State == v1.InterfaceStateLinkDown {
		out.Link = &libvirtxml.DomainInterfaceLink{State: "down"}
	}
	return out
}

func nicModel(c *conversion, path *field.Path, iface v1.Interface) string {
	switch {
	case iface.Model == "" || iface.Model == v1.VirtIO:
		return c.virtioModel()
	case !slices.Contains(nicModels, iface.Model):
		c.invalid(path.Child("model"), iface.Model, "must be one of %v", nicModels)
	}
	return iface.Model
}

// macAddress returns the claimed address. The address in the VMI is only the requested
// one.
func macAddress(c *conversion, path *field.Path, iface v1.Interface, nic NIC) *libvirtxml.DomainInterfaceMAC {
	mac := nic.MAC
	if mac == "" {
		mac = iface.MacAddress
	}
	if mac == "" {
		return nil
	}
	parsed, err := net.ParseMAC(mac)
	if err != nil || len(parsed) != 6 || parsed[0]&1 != 0 {
		c.invalid(path.Child("macAddress"), mac, "must be a unicast Ethernet address")
		return nil
	}
	return &libvirtxml.DomainInterfaceMAC{Address: parsed.String()}
}

// passedThroughNIC passes a virtual function of the host's network card through to the
// guest.
func passedThroughNIC(c *conversion, path *field.Path, iface v1.Interface, nic NIC) {
	address := pciAddress(c, path.Child("name"), nic.PCI)
	if address == nil {
		return
	}
	out := libvirtxml.DomainHostdev{
		Managed:   "no",
		SubsysPCI: &libvirtxml.DomainHostdevSubsysPCI{Source: &libvirtxml.DomainHostdevSubsysPCISource{Address: address.PCI}},
		Alias:     userAlias(iface.Name),
		Address:   pciAddress(c, path.Child("pciAddress"), iface.PciAddress),
	}
	if iface.BootOrder != nil {
		out.Boot = &libvirtxml.DomainDeviceBoot{Order: *iface.BootOrder}
	}
	c.out.Devices.Hostdevs = append(c.out.Devices.Hostdevs, out)
}
