package domain

import (
	"libvirt.org/go/libvirtxml"
)

// filesystems shares directories of the host, each through a virtiofsd that libvirt
// runs beside the guest.
func filesystems(c *conversion) {
	for i, f := range c.domain.Devices.Filesystems {
		path := c.root.Child("devices", "filesystems").Index(i)
		if f.Virtiofs == nil {
			c.invalid(path, f.Name, "names no kind of file system: set virtiofs")
			continue
		}
		dir, ok := c.Filesystems[f.Name]
		if !ok {
			c.invalid(path.Child("name"), f.Name, "its volume has not been prepared")
			continue
		}
		c.out.Devices.Filesystems = append(c.out.Devices.Filesystems, libvirtxml.DomainFilesystem{
			AccessMode: "passthrough",
			Driver:     &libvirtxml.DomainFilesystemDriver{Type: "virtiofs"},
			Source:     &libvirtxml.DomainFilesystemSource{Mount: &libvirtxml.DomainFilesystemSourceMount{Dir: dir}},
			Target:     &libvirtxml.DomainFilesystemTarget{Dir: f.Name},
			Alias:      userAlias(f.Name),
		})
	}
}
