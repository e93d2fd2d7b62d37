package kernel

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtmesh/netplug"
)

// scratchName is the name of a link until its alias is set. A link found under this name was
// left by a process that died in between.
const scratchName = "vmnew"

// addMarkedLink makes a link under a scratch name, sets its alias and then renames it. So a
// link with its final name always has its alias. The kernel takes no alias in the request
// that makes a link.
func (k *Kernel) addMarkedLink(l netlink.Link, name, alias string) error {
	if old, err := k.handle.LinkByName(scratchName); err == nil {
		if err := k.handle.LinkDel(old); err != nil {
			return fmt.Errorf("remove link %s: %w", scratchName, err)
		}
	}
	l.Attrs().Name = scratchName
	if err := k.handle.LinkAdd(l); err != nil {
		return err
	}
	err := k.handle.LinkSetAlias(l, alias)
	if err == nil {
		err = k.handle.LinkSetName(l, name)
	}
	if err != nil {
		return errors.Join(err, k.handle.LinkDel(l))
	}
	l.Attrs().Name = name
	return nil
}

// addBridge makes a bridge.
func (k *Kernel) addBridge(o netplug.AddBridge) error {
	b := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	if o.VLANFiltering {
		b.VlanFiltering = &o.VLANFiltering
	}
	if err := k.addMarkedLink(b, o.Name, o.Alias); err != nil {
		return err
	}
	if !o.VLANFiltering {
		return nil
	}
	if err := k.checkVLANFiltering(o.Name, true); err != nil {
		return errors.Join(err, k.handle.LinkDel(b))
	}
	return nil
}

func (k *Kernel) setVLANFiltering(l netlink.Link, on bool) error {
	if err := k.handle.BridgeSetVlanFiltering(l, on); err != nil {
		return err
	}
	return k.checkVLANFiltering(l.Attrs().Name, on)
}

// checkVLANFiltering checks whether the setting took effect. A kernel without VLAN filtering
// accepts the setting without an error.
func (k *Kernel) checkVLANFiltering(name string, want bool) error {
	l, err := k.handle.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if b, ok := l.(*netlink.Bridge); ok && filtersVLANs(b) == want {
		return nil
	}
	return fmt.Errorf("VLAN filtering on a bridge (CONFIG_BRIDGE_VLAN_FILTERING): %w", netplug.ErrUnsupported)
}

func filtersVLANs(b *netlink.Bridge) bool { return b.VlanFiltering != nil && *b.VlanFiltering }

// addVLAN makes a VLAN of a link.
func (k *Kernel) addVLAN(o netplug.AddVLAN) error {
	parent, err := k.handle.LinkByName(o.Parent)
	if err != nil {
		return fmt.Errorf("find link %s: %w", o.Parent, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.ParentIndex = parent.Attrs().Index
	vlan := &netlink.Vlan{LinkAttrs: attrs, VlanId: o.ID, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	err = k.addMarkedLink(vlan, o.Name, o.Alias)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("VLAN links (CONFIG_VLAN_8021Q): %w", err)
	}
	return err
}

func (k *Kernel) setMaster(l netlink.Link, master string) error {
	if master == "" {
		return k.handle.LinkSetNoMaster(l)
	}
	m, err := k.handle.LinkByName(master)
	if err != nil {
		return fmt.Errorf("find link %s: %w", master, err)
	}
	return k.handle.LinkSetMaster(l, m)
}

// addTap makes a tap. It makes the tap persistent only after setting its alias. If the
// process dies in between, the kernel removes the tap, which netplug could not recognise as
// its own.
func (k *Kernel) addTap(o netplug.AddTap) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(o.Name)
	if err != nil {
		return fmt.Errorf("name %q: %w", o.Name, err)
	}
	flags := unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL
	if o.MultiQueue {
		flags |= unix.IFF_MULTI_QUEUE
	}
	req.SetUint16(uint16(flags))
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return os.NewSyscallError("TUNSETIFF", err)
	}
	// If both owner and group are set, the kernel requires both to match. So one that was
	// not requested is not set.
	if o.Owner != 0 {
		if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, int(o.Owner)); err != nil {
			return os.NewSyscallError("TUNSETOWNER", err)
		}
	}
	if o.Group != 0 {
		if err := unix.IoctlSetInt(fd, unix.TUNSETGROUP, int(o.Group)); err != nil {
			return os.NewSyscallError("TUNSETGROUP", err)
		}
	}
	l, err := k.handle.LinkByName(o.Name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", o.Name, err)
	}
	if err := k.handle.LinkSetAlias(l, o.Alias); err != nil {
		return fmt.Errorf("set alias of %s: %w", o.Name, err)
	}
	return os.NewSyscallError("TUNSETPERSIST", unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1))
}
