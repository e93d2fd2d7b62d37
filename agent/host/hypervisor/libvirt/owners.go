package libvirt

import (
	"errors"
	"sync"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// ownerCache keeps the owners of domains by UUID: after a domain was undefined, its
// metadata cannot be read any more.
type ownerCache struct {
	mu     sync.Mutex
	owners map[string]hypervisor.Owner
}

func newOwnerCache() *ownerCache { return &ownerCache{owners: map[string]hypervisor.Owner{}} }

func (c *ownerCache) get(uuid string) (hypervisor.Owner, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.owners[uuid]
	return o, ok
}

func (c *ownerCache) put(uuid string, o hypervisor.Owner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owners[uuid] = o
}

func (c *ownerCache) forget(uuid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.owners, uuid)
}

// ownerOf reads a domain's metadata. hypervisor.ErrNotFound means that the domain does
// not belong to virtmesh.
func (d *Driver) ownerOf(dom *libvirt.Domain) (hypervisor.Owner, error) {
	uuid, err := dom.GetUUIDString()
	if err != nil {
		return hypervisor.Owner{}, err
	}
	text, err := dom.GetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, hypervisor.MetadataURI, libvirt.DOMAIN_AFFECT_CURRENT)
	if err != nil {
		var e libvirt.Error
		if errors.As(err, &e) && e.Code == libvirt.ERR_NO_DOMAIN_METADATA {
			return hypervisor.Owner{}, hypervisor.ErrNotFound
		}
		return hypervisor.Owner{}, err
	}
	owner, err := hypervisor.ParseMetadata(text)
	if err != nil {
		// Another program or a later version wrote it, so the domain is left alone.
		d.log.Warn("a domain has metadata that cannot be read and is left alone", "uuid", uuid, "err", err)
		return hypervisor.Owner{}, hypervisor.ErrNotFound
	}
	d.owners.put(uuid, owner)
	return owner, nil
}

// lookup finds the domain of ref, if its metadata names the same instance, by UID too.
// The caller frees it.
func (d *Driver) lookup(conn *libvirt.Connect, ref hypervisor.Ref) (*libvirt.Domain, error) {
	dom, err := conn.LookupDomainByName(ref.DomainName())
	if err != nil {
		return nil, err
	}
	owner, err := d.ownerOf(dom)
	if err == nil && owner.Ref != ref {
		err = hypervisor.ErrNotFound
	}
	if err != nil {
		_ = dom.Free()
		return nil, err
	}
	return dom, nil
}
