package libvirt

import (
	"strings"
	"sync"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

// deviceNames maps a device's name in the domain (vda, or the tap) to its name in the
// instance, empty when it has none.
type deviceNames map[string]string

// nameCache keeps the deviceNames of running domains by UUID, so that statistics need
// not parse a definition each time.
type nameCache struct {
	mu    sync.Mutex
	names map[string]cachedNames
}

// cachedNames are the names in the domain of one instance. The domain of the machine's
// next instance has the same UUID and may have other devices.
type cachedNames struct {
	instance string
	names    deviceNames
}

func newNameCache() *nameCache { return &nameCache{names: map[string]cachedNames{}} }

// find returns the names known for the instance's domain, if they cover the shown ones.
func (c *nameCache) find(uuid, instance string, shown []string) (deviceNames, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.names[uuid]
	return known.names, ok && known.instance == instance && known.names.cover(shown)
}

func (c *nameCache) forget(uuid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.names, uuid)
}

// of returns the names for s, the domain of the instance with that UID. It reads the
// definition when s has a device that it does not know yet, for example after a
// hotplug.
func (c *nameCache) of(s *libvirt.DomainStats, uuid, instance string) (deviceNames, error) {
	shown := make([]string, 0, len(s.Block)+len(s.Net))
	for _, b := range s.Block {
		shown = append(shown, b.Name)
	}
	for _, n := range s.Net {
		shown = append(shown, n.Name)
	}
	if known, ok := c.find(uuid, instance, shown); ok {
		return known, nil
	}
	text, err := s.Domain.GetXMLDesc(0)
	if err != nil {
		return nil, err
	}
	known, err := parseDeviceNames(text)
	if err != nil {
		return nil, err
	}
	for _, name := range shown {
		if _, ok := known[name]; !ok {
			known[name] = ""
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names[uuid] = cachedNames{instance: instance, names: known}
	return known, nil
}

func (n deviceNames) cover(shown []string) bool {
	for _, name := range shown {
		if _, ok := n[name]; !ok {
			return false
		}
	}
	return true
}

func parseDeviceNames(text string) (deviceNames, error) {
	domain := &libvirtxml.Domain{}
	if err := domain.Unmarshal(text); err != nil {
		return nil, err
	}
	names := deviceNames{}
	if domain.Devices == nil {
		return names, nil
	}
	for _, d := range domain.Devices.Disks {
		if d.Target != nil {
			names[d.Target.Dev] = instanceName(d.Alias)
		}
	}
	for _, n := range domain.Devices.Interfaces {
		if n.Target != nil {
			names[n.Target.Dev] = instanceName(n.Alias)
		}
	}
	return names, nil
}

// instanceName derives a device's name in the instance from its alias.
func instanceName(alias *libvirtxml.DomainAlias) string {
	if alias == nil {
		return ""
	}
	name, _ := strings.CutPrefix(alias.Name, hypervisor.AliasPrefix)
	return name
}
