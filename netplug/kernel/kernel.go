// Package kernel observes and changes the network of the host it runs on, for netplug.
//
// It is the only package that imports netlink and nftables libraries and that runs nft(8).
// It makes no decisions: it reports the state of the host (Observe) and makes one change at
// a time (Do). It acts on the network namespace of the process and needs CAP_NET_ADMIN
// there.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtmesh/netplug"
)

// Kernel implements netplug.Kernel for the host. Its methods may be called concurrently.
type Kernel struct {
	handle *netlink.Handle
	nft    nft
	// noGates is set once the kernel was found to lack what gates need.
	noGates atomic.Bool
}

var _ netplug.Kernel = (*Kernel)(nil)

// New opens a netlink socket to the kernel.
func New() (*Kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &Kernel{handle: h}, nil
}

// Close closes the netlink socket. The network stays as it is.
func (k *Kernel) Close() error {
	k.handle.Close()
	return nil
}

// Do makes one change to the host.
func (k *Kernel) Do(ctx context.Context, op netplug.Op) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := k.doOp(ctx, op)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: %w", netplug.ErrUnsupported, err)
	}
	return err
}

func (k *Kernel) doOp(ctx context.Context, op netplug.Op) error {
	switch o := op.(type) {
	case netplug.AddBridge:
		return k.addBridge(o)
	case netplug.AddTap:
		return k.addTap(o)
	case netplug.AddVLAN:
		return k.addVLAN(o)
	case netplug.SetSysctl:
		return setSysctl(o)
	case netplug.LoadFilter:
		return k.nft.loadRuleset(ctx, o.Ruleset)
	}
	name, change := k.linkChange(op)
	if change == nil {
		return fmt.Errorf("no such operation: %T", op)
	}
	link, err := k.handle.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	return change(link)
}

// linkChange returns the function that changes an existing link, and the link's name.
func (k *Kernel) linkChange(op netplug.Op) (name string, change func(netlink.Link) error) {
	h := k.handle
	switch o := op.(type) {
	case netplug.DelLink:
		return o.Name, h.LinkDel
	case netplug.SetAlias:
		return o.Link, func(l netlink.Link) error { return h.LinkSetAlias(l, o.Alias) }
	case netplug.SetMTU:
		return o.Link, func(l netlink.Link) error { return h.LinkSetMTU(l, o.MTU) }
	case netplug.SetMAC:
		return o.Link, func(l netlink.Link) error { return h.LinkSetHardwareAddr(l, o.MAC) }
	case netplug.SetMaster:
		return o.Link, func(l netlink.Link) error { return k.setMaster(l, o.Master) }
	case netplug.SetIsolated:
		return o.Link, func(l netlink.Link) error { return h.LinkSetIsolated(l, o.On) }
	case netplug.SetVLANFiltering:
		return o.Link, func(l netlink.Link) error { return k.setVLANFiltering(l, o.On) }
	case netplug.SetGate:
		return o.Link, k.setGate
	case netplug.SetUp:
		if o.Up {
			return o.Link, h.LinkSetUp
		}
		return o.Link, h.LinkSetDown
	case netplug.AddAddr:
		return o.Link, func(l netlink.Link) error { return h.AddrAdd(l, addr(o.Addr)) }
	case netplug.DelAddr:
		return o.Link, func(l netlink.Link) error { return h.AddrDel(l, addr(o.Addr)) }
	case netplug.AddPortVLAN:
		return o.Link, func(l netlink.Link) error {
			return h.BridgeVlanAdd(l, uint16(o.VLAN.ID), o.VLAN.PVID, o.VLAN.Untagged, false, false)
		}
	case netplug.DelPortVLAN:
		return o.Link, func(l netlink.Link) error {
			return h.BridgeVlanDel(l, uint16(o.ID), false, false, false, false)
		}
	}
	return "", nil
}

func addr(p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{
		IP:   p.Addr().AsSlice(),
		Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}}
}

// setSysctl writes a kernel parameter.
func setSysctl(o netplug.SetSysctl) error {
	err := os.WriteFile(sysctlPath(o.Key), []byte(o.Value), 0)
	if o.Optional && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func sysctlPath(key string) string { return filepath.Join("/proc/sys", key) }
