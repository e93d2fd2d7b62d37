package libvirt

import (
	"context"
	"hash/fnv"
	"sync"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// SetRecord implements hypervisor.Recorder.
func (d *Driver) SetRecord(ctx context.Context, ref hypervisor.Ref, name, value string) error {
	return d.act(ctx, d.acts, "record "+name+" of", ref, func(dom *libvirt.Domain) error {
		lock := d.recordLock(ref)
		lock.Lock()
		defer lock.Unlock()
		had, err := d.recordsOf(dom)
		if err != nil {
			return err
		}
		records, err := hypervisor.WithRecord(had, name, value)
		if err != nil {
			return err
		}
		text := "" // removes the element
		if len(records) > 0 {
			if text, err = hypervisor.FormatRecords(records); err != nil {
				return err
			}
		}
		return setMetadata(dom, text, hypervisor.RecordsPrefix, hypervisor.RecordsURI)
	})
}

// recordLock returns the lock of a domain's records.
func (d *Driver) recordLock(ref hypervisor.Ref) *sync.Mutex {
	h := fnv.New32a()
	_, _ = h.Write([]byte(ref.UID)) // does not fail
	return &d.recording[h.Sum32()%uint32(len(d.recording))]
}

// SetOwner implements hypervisor.Recorder.
func (d *Driver) SetOwner(ctx context.Context, owner hypervisor.Owner) error {
	text, err := owner.Element()
	if err != nil {
		return err
	}
	return d.act(ctx, d.acts, "set the owner of", owner.Ref, func(dom *libvirt.Domain) error {
		if err := setMetadata(dom, text, hypervisor.MetadataPrefix, hypervisor.MetadataURI); err != nil {
			return err
		}
		uuid, err := dom.GetUUIDString()
		if err != nil {
			return err
		}
		d.owners.put(uuid, owner)
		return nil
	})
}

// setMetadata writes an element of metadata, or removes it: in the running domain, from
// which it is read now, and in the stored definition, from which it is read after the
// guest has ended.
func setMetadata(dom *libvirt.Domain, text, prefix, uri string) error {
	set := func(impact libvirt.DomainModificationImpact) error {
		return dom.SetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, text, prefix, uri, impact)
	}
	active, err := dom.IsActive()
	if err != nil {
		return err
	}
	if active {
		err = set(libvirt.DOMAIN_AFFECT_LIVE | libvirt.DOMAIN_AFFECT_CONFIG)
		if !is(err, libvirt.ERR_OPERATION_INVALID) {
			return err
		}
		// The guest has ended meanwhile.
	}
	return set(libvirt.DOMAIN_AFFECT_CONFIG)
}

// recordsOf reads a domain's records. Records that cannot be read were not written by
// virtmesh, and are ignored.
func (d *Driver) recordsOf(dom *libvirt.Domain) (map[string]string, error) {
	text, err := dom.GetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, hypervisor.RecordsURI, libvirt.DOMAIN_AFFECT_CURRENT)
	if is(err, libvirt.ERR_NO_DOMAIN_METADATA) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	records, err := hypervisor.ParseRecords(text)
	if err != nil {
		d.log.Warn("a domain's records cannot be read and are ignored", "err", err)
		return nil, nil
	}
	return records, nil
}
