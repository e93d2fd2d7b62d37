package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"virtmesh/netplug"
)

// dumpTries is how often a listing is tried when the kernel reports that the listed objects
// changed in the meantime.
const dumpTries = 5

// Observe returns the network state of the host, with the values of the sysctls that exist.
func (k *Kernel) Observe(ctx context.Context, sysctls []string) (netplug.World, error) {
	if err := ctx.Err(); err != nil {
		return netplug.World{}, err
	}
	w := netplug.World{Sysctls: readSysctls(sysctls), NoGates: k.noGates.Load()}
	links, err := listUndisturbed(k.handle.LinkList)
	if err != nil {
		return w, fmt.Errorf("list links: %w", err)
	}
	d := details{names: make(map[int]string, len(links)), filtering: map[int]bool{}}
	for _, l := range links {
		d.names[l.Attrs().Index] = l.Attrs().Name
		if b, ok := l.(*netlink.Bridge); ok && filtersVLANs(b) {
			d.filtering[l.Attrs().Index] = true
		}
	}
	if err := k.readDetails(&d); err != nil {
		return w, err
	}
	if d.gated, err = k.gatedBridges(links); err != nil {
		return w, err
	}
	for _, l := range links {
		w.Links = append(w.Links, d.link(l))
	}
	if w.Filter, err = k.nft.loadedFingerprint(); err != nil {
		return w, fmt.Errorf("read packet filter: %w", err)
	}
	return w, nil
}

// details holds, by index of the link, what a listing of links does not contain.
type details struct {
	names     map[int]string
	filtering map[int]bool
	gated     map[int]bool
	addrs     map[int][]netip.Prefix
	isolated  map[int]bool
	carriers  map[int]bool
	vlans     map[int32][]*nl.BridgeVlanInfo
}

func (k *Kernel) readDetails(d *details) error {
	addrs, err := listUndisturbed(func() ([]netlink.Addr, error) { return k.handle.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	d.addrs = make(map[int][]netip.Prefix)
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		if ok && !ip.Unmap().IsLinkLocalUnicast() {
			d.addrs[a.LinkIndex] = append(d.addrs[a.LinkIndex], netip.PrefixFrom(ip.Unmap(), bits))
		}
	}
	if d.isolated, err = isolatedPorts(); err != nil {
		return fmt.Errorf("list bridge ports: %w", err)
	}
	if d.carriers, err = carriers(); err != nil {
		return fmt.Errorf("list carriers: %w", err)
	}
	if len(d.filtering) == 0 {
		return nil
	}
	if d.vlans, err = k.handle.BridgeVlanList(); err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list VLANs of bridge ports: %w", err)
	}
	return nil
}

// link combines everything that is known about a link.
func (d details) link(l netlink.Link) netplug.Link {
	a := l.Attrs()
	out := netplug.Link{
		Name:     a.Name,
		Kind:     netplug.Kind(l.Type()),
		Alias:    a.Alias,
		Master:   d.names[a.MasterIndex],
		MTU:      a.MTU,
		MAC:      a.HardwareAddr,
		Up:       a.RawFlags&unix.IFF_UP != 0,
		Addrs:    d.addrs[a.Index],
		Isolated: d.isolated[a.Index],
	}
	if d.filtering[a.MasterIndex] {
		for _, v := range d.vlans[int32(a.Index)] {
			out.PortVLANs = append(out.PortVLANs, netplug.PortVLAN{ID: int(v.Vid), PVID: v.PortVID(), Untagged: v.EngressUntag()})
		}
	}
	switch t := l.(type) {
	case *netlink.Bridge:
		out.VLANFiltering, out.Gated = filtersVLANs(t), d.gated[a.Index]
	case *netlink.Vlan:
		out.Parent, out.VLANID = d.names[a.ParentIndex], t.VlanId
	case *netlink.Tuntap:
		if t.Mode == netlink.TUNTAP_MODE_TAP {
			out.Kind = netplug.KindTap
		}
		out.Owner, out.Group = t.Owner, t.Group
		out.MultiQueue = t.Flags&netlink.TUNTAP_MULTI_QUEUE != 0
		out.Carrier = d.carriers[a.Index]
	}
	return out
}

// rawLinks calls each with the index and the attributes of every link, as the kernel lists
// them for an address family.
func rawLinks(family int, each func(index int, attrs []syscall.NetlinkRouteAttr) error) error {
	msgs, err := listUndisturbed(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(family))
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	})
	if err != nil {
		return err
	}
	for _, m := range msgs {
		info := nl.DeserializeIfInfomsg(m)
		attrs, err := nl.ParseRouteAttr(m[info.Len():])
		if err == nil {
			err = each(int(info.Index), attrs)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isolatedPorts returns the indexes of bridge ports with the isolated flag.
func isolatedPorts() (map[int]bool, error) {
	ports := make(map[int]bool)
	err := rawLinks(unix.AF_BRIDGE, func(index int, attrs []syscall.NetlinkRouteAttr) error {
		for _, a := range attrs {
			if a.Attr.Type&nl.NLA_TYPE_MASK != unix.IFLA_PROTINFO {
				continue
			}
			port, err := nl.ParseRouteAttr(a.Value)
			if err != nil {
				return err
			}
			for _, p := range port {
				if p.Attr.Type == nl.IFLA_BRPORT_ISOLATED && p.Value[0] == 1 {
					ports[index] = true
				}
			}
		}
		return nil
	})
	return ports, err
}

// carriers returns the indexes of links with a carrier. It reads IFLA_CARRIER because the
// flag among the link's flags is never set while the link is down.
func carriers() (map[int]bool, error) {
	links := make(map[int]bool)
	err := rawLinks(unix.AF_UNSPEC, func(index int, attrs []syscall.NetlinkRouteAttr) error {
		for _, a := range attrs {
			if a.Attr.Type == unix.IFLA_CARRIER && a.Value[0] == 1 {
				links[index] = true
			}
		}
		return nil
	})
	return links, err
}

// listUndisturbed repeats a listing until nothing changed while it was read, at most
// dumpTries times.
func listUndisturbed[T any](list func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, err
}

func readSysctls(keys []string) map[string]string {
	out := make(map[string]string, len(keys))
	for _, key := range keys {
		if b, err := os.ReadFile(sysctlPath(key)); err == nil {
			out[key] = strings.TrimSpace(string(b))
		}
	}
	return out
}
