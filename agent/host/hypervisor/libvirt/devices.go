package libvirt

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"strings"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// deviceXML holds the parts of a device that plugging, finding and resizing it need.
// Sizes are in KiB, as libvirt writes them.
type deviceXML struct {
	XMLName xml.Name
	Model   string `xml:"model,attr"`
	Alias   struct {
		Name string `xml:"name,attr"`
	} `xml:"alias"`
	Target struct {
		Dev       string  `xml:"dev,attr"`
		Size      sizeXML `xml:"size"`
		Block     sizeXML `xml:"block"`
		Requested sizeXML `xml:"requested"`
	} `xml:"target"`
}

type sizeXML struct {
	KiB  int64  `xml:",chardata"`
	Unit string `xml:"unit,attr"`
}

// name returns the device's name in the instance, empty when it has none.
func (v deviceXML) name() string {
	name, ok := strings.CutPrefix(v.Alias.Name, hypervisor.AliasPrefix)
	if !ok {
		return ""
	}
	return name
}

// deviceList holds the devices of one definition.
type deviceList []deviceXML

// named returns the device that has the name in the instance.
func (l deviceList) named(name string) (deviceXML, bool) {
	i := slices.IndexFunc(l, func(v deviceXML) bool { return v.name() == name })
	if i < 0 {
		return deviceXML{}, false
	}
	return l[i], true
}

// parseDeviceList parses the devices of a whole definition.
func parseDeviceList(text string) (deviceList, error) {
	var domain struct {
		XMLName xml.Name `xml:"domain"`
		Devices struct {
			All []deviceXML `xml:",any"`
		} `xml:"devices"`
	}
	if err := xml.Unmarshal([]byte(text), &domain); err != nil {
		return nil, fmt.Errorf("parse domain definition: %w", err)
	}
	return domain.Devices.All, nil
}

// parseDevice parses the device that a caller wants to plug or change.
func parseDevice(text string) (deviceXML, error) {
	var v deviceXML
	err := xml.Unmarshal([]byte(text), &v)
	if err == nil && v.name() == "" {
		err = fmt.Errorf("its alias must be %s and the device's name", hypervisor.AliasPrefix)
	}
	if err != nil {
		return v, fmt.Errorf("%w: device: %w", hypervisor.ErrInvalid, err)
	}
	return v, nil
}

// definitions holds the devices that a running domain has now, and those with which it
// would start again.
type definitions struct {
	live, config deviceList
}

// readDefinitions reads both definitions of a domain. It returns ErrNotRunning when the
// guest does not run.
func readDefinitions(dom *libvirt.Domain) (definitions, error) {
	var out definitions
	if active, err := dom.IsActive(); err != nil || !active {
		return out, orNotRunning(err)
	}
	for _, part := range []struct {
		list  *deviceList
		flags libvirt.DomainXMLFlags
	}{{&out.live, 0}, {&out.config, libvirt.DOMAIN_XML_INACTIVE}} {
		text, err := dom.GetXMLDesc(part.flags)
		if err != nil {
			return out, err
		}
		if *part.list, err = parseDeviceList(text); err != nil {
			return out, err
		}
	}
	return out, nil
}

// where returns the flags of the definitions that have, or lack, the device. libvirt
// fails and changes nothing if a flag names a definition in which there is nothing to
// change.
func (d definitions) where(name string, has bool) libvirt.DomainDeviceModifyFlags {
	var flags libvirt.DomainDeviceModifyFlags
	if _, ok := d.live.named(name); ok == has {
		flags |= libvirt.DOMAIN_DEVICE_MODIFY_LIVE
	}
	if _, ok := d.config.named(name); ok == has {
		flags |= libvirt.DOMAIN_DEVICE_MODIFY_CONFIG
	}
	return flags
}

// AttachDevice implements hypervisor.Devices.
func (d *Driver) AttachDevice(ctx context.Context, ref hypervisor.Ref, device string) error {
	wanted, err := parseDevice(device)
	if err != nil {
		return fmt.Errorf("attach a device to %s: %w", ref, err)
	}
	return d.act(ctx, d.acts, "attach "+wanted.name()+" to", ref, func(dom *libvirt.Domain) error {
		have, err := readDefinitions(dom)
		if err != nil {
			return err
		}
		flags := have.where(wanted.name(), false)
		if flags == 0 {
			return nil
		}
		return dom.AttachDeviceFlags(device, flags)
	})
}

// DetachDevice implements hypervisor.Devices.
func (d *Driver) DetachDevice(ctx context.Context, ref hypervisor.Ref, name string) error {
	return d.act(ctx, d.acts, "detach "+name+" from", ref, func(dom *libvirt.Domain) error {
		have, err := readDefinitions(dom)
		if err != nil {
			return err
		}
		flags := have.where(name, true)
		if flags == 0 {
			return nil
		}
		// Of the calls that unplug a device, only this one does not wait for the guest.
		err = dom.DetachDeviceAlias(hypervisor.AliasPrefix+name, flags)
		if err != nil && (is(err, libvirt.ERR_DEVICE_MISSING) || asksAlready(err)) {
			return nil
		}
		return err
	})
}

// asksAlready reports whether the guest was asked for the device before and has not
// answered yet. QEMU says so only in the text of its error.
func asksAlready(err error) bool {
	return strings.Contains(err.Error(), "already in the process of unplug")
}

// UpdateDevice implements hypervisor.Devices.
func (d *Driver) UpdateDevice(ctx context.Context, ref hypervisor.Ref, device string) error {
	wanted, err := parseDevice(device)
	if err != nil {
		return fmt.Errorf("update a device of %s: %w", ref, err)
	}
	return d.act(ctx, d.acts, "update "+wanted.name()+" of", ref, func(dom *libvirt.Domain) error {
		have, err := readDefinitions(dom)
		if err != nil {
			return err
		}
		there, ok := have.live.named(wanted.name())
		if !ok {
			return fmt.Errorf("%w: %s", hypervisor.ErrNoDevice, wanted.name())
		}
		if there.XMLName.Local != wanted.XMLName.Local {
			return fmt.Errorf("%w: %s is a %s", hypervisor.ErrUnsupported, wanted.name(), there.XMLName.Local)
		}
		return updateDevice(dom, device, have.where(wanted.name(), true))
	})
}

// updateDevice changes the device in the running domain, and then in the stored
// definition if libvirt can: it changes some devices in only one of them.
func updateDevice(dom *libvirt.Domain, device string, flags libvirt.DomainDeviceModifyFlags) error {
	err := dom.UpdateDeviceFlags(device, flags)
	if flags&libvirt.DOMAIN_DEVICE_MODIFY_CONFIG != 0 && (is(err, libvirt.ERR_OPERATION_UNSUPPORTED) || is(err, libvirt.ERR_CONFIG_UNSUPPORTED)) {
		return dom.UpdateDeviceFlags(device, libvirt.DOMAIN_DEVICE_MODIFY_LIVE)
	}
	return err
}

// LiveDefinition implements hypervisor.Devices.
func (d *Driver) LiveDefinition(ctx context.Context, ref hypervisor.Ref) (string, error) {
	return onDomain(ctx, d, d.queries, "read definition of", ref, nil, func(_ *libvirt.Connect, dom *libvirt.Domain) (string, error) {
		if active, err := dom.IsActive(); err != nil || !active {
			return "", orNotRunning(err)
		}
		text, err := dom.GetXMLDesc(0)
		if err != nil {
			return "", err
		}
		if len(text) > hypervisor.MaxDefinition {
			return "", errors.New("it is larger than any definition that virtmesh makes")
		}
		return text, nil
	})
}
