package hypervisortest

import (
	"encoding/xml"
	"errors"
	"fmt"
	"strings"

	"virtmesh/agent/host/hypervisor"
)

// size is a number of bytes as libvirt writes it.
type size struct {
	Value uint64 `xml:",chardata"`
	Unit  string `xml:"unit,attr"`
}

// bytes converts from the units that occur.
func (s size) bytes() int64 {
	shift := map[string]uint{"b": 0, "bytes": 0, "": 10, "KiB": 10, "MiB": 20, "GiB": 30}
	return int64(s.Value << shift[s.Unit])
}

// definition is what the fake reads of a domain's XML.
type definition struct {
	XMLName xml.Name `xml:"domain"`
	Name    string   `xml:"name"`
	UUID    string   `xml:"uuid"`
	VCPU    struct {
		Max     int `xml:",chardata"`
		Current int `xml:"current,attr"`
	} `xml:"vcpu"`
	Memory size `xml:"memory"`
	Tune   struct {
		Limit size `xml:"hard_limit"`
	} `xml:"memtune"`
	OS struct {
		Firmware string `xml:"firmware,attr"`
		NVRAM    string `xml:"nvram"`
	} `xml:"os"`
	Devices struct {
		Content string `xml:",innerxml"`
	} `xml:"devices"`
}

// fakeDevice is one device of a domain.
type fakeDevice struct {
	// kind is the element's name, text the whole element.
	kind, name, text string
	file             string
	target           string // of a disk
	size, block      int64  // of a memory device
	requested        int64
	persistentTPM    bool
	// releasing: the guest has been asked to let go of it.
	releasing bool
}

// deviceXML is what the fake reads of a device.
type deviceXML struct {
	XMLName xml.Name
	Alias   struct {
		Name string `xml:"name,attr"`
	} `xml:"alias"`
	Source struct {
		File string `xml:"file,attr"`
	} `xml:"source"`
	Target struct {
		Dev       string `xml:"dev,attr"`
		Size      size   `xml:"size"`
		Block     size   `xml:"block"`
		Requested size   `xml:"requested"`
	} `xml:"target"`
	Backend struct {
		Persistent string `xml:"persistent_state,attr"`
	} `xml:"backend"`
}

// parse reads a definition as strictly as libvirt does.
func parse(text string) (definition, []fakeDevice, hypervisor.Owner, error) {
	var def definition
	var devices []fakeDevice
	owner, ours, err := hypervisor.OwnerOf(text)
	if err == nil && !ours {
		err = errors.New("no metadata of ours")
	}
	if err == nil {
		err = xml.Unmarshal([]byte(text), &def)
	}
	if err == nil && def.Name != owner.DomainName() {
		err = fmt.Errorf("name %q is not %q", def.Name, owner.DomainName())
	}
	if err == nil {
		devices, err = parseDevices(def.Devices.Content)
	}
	if err != nil {
		return def, nil, owner, fmt.Errorf("%w: %w", hypervisor.ErrInvalid, err)
	}
	return def, devices, owner, nil
}

// parseDevices reads the elements of content, which is that of <devices>.
func parseDevices(content string) ([]fakeDevice, error) {
	whole := "<devices>" + content + "</devices>"
	d := xml.NewDecoder(strings.NewReader(whole))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	var devices []fakeDevice
	for {
		from := d.InputOffset()
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		if _, end := token.(xml.EndElement); end {
			return devices, nil
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		var e deviceXML
		if err := d.DecodeElement(&e, &start); err != nil {
			return nil, err
		}
		devices = append(devices, newFakeDevice(e, whole[from:d.InputOffset()]))
	}
}

func newFakeDevice(e deviceXML, text string) fakeDevice {
	name, named := strings.CutPrefix(e.Alias.Name, hypervisor.AliasPrefix)
	if !named {
		name = ""
	}
	return fakeDevice{
		kind: e.XMLName.Local, name: name, text: text, file: e.Source.File, target: e.Target.Dev,
		size: e.Target.Size.bytes(), block: e.Target.Block.bytes(), requested: e.Target.Requested.bytes(),
		persistentTPM: e.XMLName.Local == "tpm" && e.Backend.Persistent == "yes",
	}
}

// parseDevice reads a single device, which must have a name in its instance.
func parseDevice(text string) (fakeDevice, error) {
	devices, err := parseDevices(text)
	if err == nil && len(devices) != 1 {
		err = fmt.Errorf("%d elements instead of one", len(devices))
	}
	if err == nil && devices[0].name == "" {
		err = fmt.Errorf("its alias must be %s and its name", hypervisor.AliasPrefix)
	}
	if err != nil {
		return fakeDevice{}, fmt.Errorf("%w: device: %w", hypervisor.ErrInvalid, err)
	}
	return devices[0], nil
}

// define returns a shut-off domain as its definition says.
func (def definition) define(owner hypervisor.Owner, devices []fakeDevice, text string) fakeDomain {
	most := max(1, def.VCPU.Max)
	sizes := fakeSizes{vcpus: most, maxVCPUs: most, booted: def.Memory.bytes(), memory: def.Memory.bytes(), limit: def.Tune.Limit.bytes(), disks: map[string]int64{}}
	if def.VCPU.Current > 0 {
		sizes.vcpus = def.VCPU.Current
	}
	return fakeDomain{
		owner: owner, ours: true, uuid: def.UUID, xml: text, devices: devices, sizes: sizes,
		state: hypervisor.StateShutoff, jobEnded: make(chan struct{}),
	}
}
