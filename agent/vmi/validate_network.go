package vmi

import (
	"net"
	"regexp"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

var (
	interfaceName   = regexp.MustCompile(`^[A-Za-z0-9-_]+$`)
	pciAddress      = regexp.MustCompile(`^([\da-fA-F]{4}):([\da-fA-F]{2}):([0-1][\da-fA-F])\.([0-7])$`)
	interfaceModels = []string{"e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139", kubevirtv1.VirtIO}
)

// Options of DHCP that are for private use.
const firstPrivateOption, lastPrivateOption = 224, 254

func validateNetworks(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	at = at.Child("networks")
	interfaces := map[string]bool{}
	for _, i := range spec.Domain.Devices.Interfaces {
		interfaces[i.Name] = true
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	pods, defaults := 0, 0
	for i, n := range spec.Networks {
		p := at.Index(i)
		switch {
		case seen[n.Name]:
			errs = append(errs, field.Duplicate(p.Child("name"), n.Name))
		case !interfaces[n.Name]:
			errs = append(errs, field.Invalid(p.Child("name"), n.Name, "no interface of spec.domain.devices.interfaces has this name"))
		}
		seen[n.Name] = true
		switch {
		case n.Pod == nil && n.Multus == nil:
			errs = append(errs, field.Required(p, "should have a network type: pod or multus"))
		case n.Pod != nil && n.Multus != nil:
			errs = append(errs, field.Invalid(p, n.Name, "should have only one network type"))
		case n.Pod != nil:
			pods++
		case n.Multus.NetworkName == "":
			errs = append(errs, field.Required(p.Child("multus", "networkName"), "CNI delegating plugin must have a networkName"))
		case n.Multus.Default:
			defaults++
		}
	}
	if pods > 1 {
		errs = append(errs, field.Forbidden(at, "more than one interface is connected to a pod network"))
	}
	if defaults > 1 {
		errs = append(errs, field.Forbidden(at, "Multus CNI should only have one default network"))
	}
	if pods > 0 && defaults > 0 {
		errs = append(errs, field.Forbidden(at, "Pod network cannot be defined when Multus default network is defined"))
	}
	return errs
}

func validateInterfaces(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	dev := at.Child("domain", "devices")
	at = dev.Child("interfaces")
	networks := map[string]*kubevirtv1.Network{}
	for i := range spec.Networks {
		networks[spec.Networks[i].Name] = &spec.Networks[i]
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	macs := map[string]bool{}
	for i := range spec.Domain.Devices.Interfaces {
		iface := &spec.Domain.Devices.Interfaces[i]
		p := at.Index(i)
		network := networks[iface.Name]
		switch {
		case !interfaceName.MatchString(iface.Name):
			errs = append(errs, field.Invalid(p.Child("name"), iface.Name,
				"Network interface name can only contain alphabetical characters, numbers, dashes (-) or underscores (_)"))
		case seen[iface.Name]:
			errs = append(errs, field.Duplicate(p.Child("name"), iface.Name))
		case network == nil:
			errs = append(errs, field.Invalid(p.Child("name"), iface.Name, "no network of spec.networks has this name"))
		default:
			errs = append(errs, validateBinding(p, iface, network)...)
		}
		seen[iface.Name] = true
		errs = append(errs, validateInterface(p, iface)...)
		if mac, err := net.ParseMAC(iface.MacAddress); err == nil {
			if macs[mac.String()] {
				errs = append(errs, field.Duplicate(p.Child("macAddress"), iface.MacAddress))
			}
			macs[mac.String()] = true
		}
	}
	return errs
}

// validateBinding checks that an interface names exactly one binding, and one that its
// network supports.
func validateBinding(at *field.Path, iface *kubevirtv1.Interface, network *kubevirtv1.Network) field.ErrorList {
	count := 0
	for _, set := range []bool{iface.Bridge != nil, iface.Masquerade != nil, iface.SRIOV != nil, iface.PasstBinding != nil, iface.Binding != nil} {
		if set {
			count++
		}
	}
	var errs field.ErrorList
	for _, old := range []struct {
		set  bool
		name string
	}{{iface.DeprecatedSlirp != nil, "slirp"}, {iface.DeprecatedMacvtap != nil, "macvtap"}, {iface.DeprecatedPasst != nil, "passt"}} {
		if old.set {
			errs = append(errs, field.Forbidden(at.Child(old.name), "the binding is discontinued"))
			count++
		}
	}
	if count != 1 {
		errs = append(errs, field.Invalid(at, iface.Name, "must have exactly one binding method or binding plugin"))
	}
	if iface.Masquerade != nil && network.Pod == nil {
		errs = append(errs, field.Invalid(at.Child("masquerade"), iface.Name, "Masquerade interface only implemented with pod network"))
	}
	return errs
}

func validateInterface(at *field.Path, iface *kubevirtv1.Interface) field.ErrorList {
	var errs field.ErrorList
	if iface.Model != "" {
		errs = append(errs, oneOf(at.Child("model"), iface.Model, interfaceModels)...)
	}
	if iface.MacAddress != "" {
		mac, err := net.ParseMAC(iface.MacAddress)
		switch {
		case err != nil || len(mac) != 6:
			errs = append(errs, field.Invalid(at.Child("macAddress"), iface.MacAddress, "malformed MAC address"))
		case mac[0]&1 != 0:
			errs = append(errs, field.Invalid(at.Child("macAddress"), iface.MacAddress, "multicast MAC address"))
		}
	}
	if iface.PciAddress != "" && !pciAddress.MatchString(iface.PciAddress) {
		errs = append(errs, field.Invalid(at.Child("pciAddress"), iface.PciAddress, "malformed PCI address"))
	}
	if iface.State != "" {
		errs = append(errs, oneOf(at.Child("state"), iface.State, []kubevirtv1.InterfaceState{
			kubevirtv1.InterfaceStateAbsent, kubevirtv1.InterfaceStateLinkUp, kubevirtv1.InterfaceStateLinkDown})...)
	}
	errs = append(errs, validatePorts(at.Child("ports"), iface.Ports)...)
	return append(errs, validateDHCP(at.Child("dhcpOptions"), iface.DHCPOptions)...)
}

func validatePorts(at *field.Path, ports []kubevirtv1.Port) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, port := range ports {
		p := at.Index(i)
		if port.Port == 0 {
			errs = append(errs, field.Required(p.Child("port"), "Port field is mandatory."))
		} else {
			for _, msg := range validation.IsValidPortNum(int(port.Port)) {
				errs = append(errs, field.Invalid(p.Child("port"), port.Port, msg))
			}
		}
		if port.Protocol != "" {
			errs = append(errs, oneOf(p.Child("protocol"), port.Protocol, []string{"TCP", "UDP"})...)
		}
		if port.Name == "" {
			continue
		}
		errs = append(errs, messages(p.Child("name"), port.Name, validation.IsValidPortName(port.Name))...)
		if seen[port.Name] {
			errs = append(errs, field.Duplicate(p.Child("name"), port.Name))
		}
		seen[port.Name] = true
	}
	return errs
}

func validateDHCP(at *field.Path, o *kubevirtv1.DHCPOptions) field.ErrorList {
	if o == nil {
		return nil
	}
	var errs field.ErrorList
	seen := map[int]bool{}
	for i, option := range o.PrivateOptions {
		p := at.Child("privateOptions").Index(i).Child("option")
		if option.Option < firstPrivateOption || option.Option > lastPrivateOption {
			errs = append(errs, field.Invalid(p, option.Option, "provided DHCPPrivateOptions are out of range, must be in range 224 to 254"))
		}
		if seen[option.Option] {
			errs = append(errs, field.Duplicate(p, option.Option))
		}
		seen[option.Option] = true
	}
	for i, server := range o.NTPServers {
		if ip := net.ParseIP(server); ip == nil || ip.To4() == nil {
			errs = append(errs, field.Invalid(at.Child("ntpServers").Index(i), server, "NTP servers must be a list of valid IPv4 addresses."))
		}
	}
	return errs
}
