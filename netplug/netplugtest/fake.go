// Package netplugtest helps to test packages that use netplug. It has a kernel in memory,
// the suite that every netplug.Kernel must pass, and network namespaces for tests of the
// real kernel.
//
// Only tests may import it.
package netplugtest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"virtmesh/netplug"
)

// Fake is a netplug.Kernel in memory. Its methods may be called concurrently.
type Fake struct {
	mu    sync.Mutex
	world netplug.World
	fail  func(netplug.Op) error
	done  []netplug.Op
	// watchers are told of changes to the filter.
	watchers map[chan struct{}]bool
	// noVLANs makes it a kernel that was built without VLANs.
	noVLANs bool
	// noGates makes it a kernel that was built without what gates need.
	noGates bool
}

var _ netplug.Kernel = (*Fake)(nil)

// NewFake returns a kernel with the given links, which belong to the host.
func NewFake(links ...netplug.Link) *Fake {
	return &Fake{world: netplug.World{Links: links, Sysctls: map[string]string{"net/ipv4/ip_forward": "0"}}}
}

// WithoutVLANs makes the fake a kernel that lacks VLANs, and returns it.
func (f *Fake) WithoutVLANs() *Fake {
	f.noVLANs = true
	return f
}

// WithoutGates makes the fake a kernel that lacks gates, and returns it.
func (f *Fake) WithoutGates() *Fake {
	f.noGates = true
	return f
}

// FailWhen makes every operation fail for which fail returns an error. A nil fail makes no
// operation fail.
func (f *Fake) FailWhen(fail func(netplug.Op) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

// Done returns the operations carried out since the last call of Done.
func (f *Fake) Done() []netplug.Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	done := f.done
	f.done = nil
	return done
}

// Change changes the world without netplug's knowledge.
func (f *Fake) Change(change func(*netplug.World)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.world.Filter
	change(&f.world)
	if f.world.Filter != before {
		f.tellWatchers()
	}
}

// WatchFilter implements netplug.Kernel.
func (f *Fake) WatchFilter(ctx context.Context, changed func()) error {
	told := make(chan struct{}, 1)
	f.mu.Lock()
	if f.watchers == nil {
		f.watchers = map[chan struct{}]bool{}
	}
	f.watchers[told] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, told)
	}()
	changed()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-told:
			changed()
		}
	}
}

func (f *Fake) tellWatchers() {
	for told := range f.watchers {
		select {
		case told <- struct{}{}:
		default:
		}
	}
}

// World returns a copy of the world.
func (f *Fake) World() netplug.World {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.copy()
}

func (f *Fake) copy() netplug.World {
	w := f.world
	w.Links = slices.Clone(w.Links)
	for i := range w.Links {
		w.Links[i].Addrs = slices.Clone(w.Links[i].Addrs)
		w.Links[i].PortVLANs = slices.Clone(w.Links[i].PortVLANs)
	}
	w.Sysctls = maps.Clone(w.Sysctls)
	return w
}

// Observe returns the world with the requested sysctls.
func (f *Fake) Observe(ctx context.Context, sysctls []string) (netplug.World, error) {
	if err := ctx.Err(); err != nil {
		return netplug.World{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.copy()
	maps.DeleteFunc(w.Sysctls, func(k, _ string) bool { return !slices.Contains(sysctls, k) })
	return w, nil
}

// Do makes one change to the world.
func (f *Fake) Do(ctx context.Context, op netplug.Op) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		if err := f.fail(op); err != nil {
			return err
		}
	}
	if err := f.doOp(op); err != nil {
		return err
	}
	f.done = append(f.done, op)
	return nil
}

func (f *Fake) doOp(op netplug.Op) error {
	switch o := op.(type) {
	case netplug.AddBridge:
		if o.VLANFiltering && f.noVLANs {
			return netplug.ErrUnsupported
		}
		return f.addLink(netplug.Link{Name: o.Name, Kind: netplug.KindBridge, Alias: o.Alias, VLANFiltering: o.VLANFiltering})
	case netplug.AddTap:
		return f.addLink(netplug.Link{
			Name: o.Name, Kind: netplug.KindTap, Alias: o.Alias,
			Owner: o.Owner, Group: o.Group, MultiQueue: o.MultiQueue,
		})
	case netplug.AddVLAN:
		if f.noVLANs {
			return netplug.ErrUnsupported
		}
		if _, err := f.findLink(o.Parent); err != nil {
			return err
		}
		return f.addLink(netplug.Link{Name: o.Name, Kind: netplug.KindVLAN, Alias: o.Alias, Parent: o.Parent, VLANID: o.ID})
	case netplug.DelLink:
		return f.delLink(o.Name)
	case netplug.SetSysctl:
		return f.setSysctl(o)
	case netplug.LoadFilter:
		f.tellWatchers()
		f.world.Filter = ""
		for _, t := range o.Ruleset.Tables {
			if len(t.Chains) > 0 {
				f.world.Filter = o.Ruleset.Fingerprint()
			}
		}
		return nil
	case netplug.SetMaster:
		return f.setMaster(o)
	case netplug.SetGate:
		if f.noGates {
			f.world.NoGates = true
			return netplug.ErrUnsupported
		}
	}
	return f.changeLink(op)
}

// changeLink changes one link.
func (f *Fake) changeLink(op netplug.Op) error {
	var name string
	var change func(l *netplug.Link)
	switch o := op.(type) {
	case netplug.SetAlias:
		name, change = o.Link, func(l *netplug.Link) { l.Alias = o.Alias }
	case netplug.SetMTU:
		name, change = o.Link, func(l *netplug.Link) { l.MTU = o.MTU }
	case netplug.SetMAC:
		name, change = o.Link, func(l *netplug.Link) { l.MAC = bytes.Clone(o.MAC) }
	case netplug.SetIsolated:
		name, change = o.Link, func(l *netplug.Link) { l.Isolated = o.On }
	case netplug.SetVLANFiltering:
		if f.noVLANs {
			return netplug.ErrUnsupported
		}
		name, change = o.Link, func(l *netplug.Link) { l.VLANFiltering = o.On }
	case netplug.SetGate:
		name, change = o.Link, func(l *netplug.Link) { l.Gated = true }
	case netplug.SetUp:
		name, change = o.Link, func(l *netplug.Link) { l.Up = o.Up }
	case netplug.AddAddr:
		name, change = o.Link, func(l *netplug.Link) { l.Addrs = append(l.Addrs, o.Addr) }
	case netplug.DelAddr:
		name, change = o.Link, func(l *netplug.Link) {
			l.Addrs = slices.DeleteFunc(l.Addrs, func(p netip.Prefix) bool { return p == o.Addr })
		}
	case netplug.AddPortVLAN:
		name, change = o.Link, func(l *netplug.Link) { addPortVLAN(l, o.VLAN) }
	case netplug.DelPortVLAN:
		name, change = o.Link, func(l *netplug.Link) { delPortVLAN(l, o.ID) }
	default:
		return fmt.Errorf("no such operation: %T", op)
	}
	l, err := f.findLink(name)
	if err != nil {
		return err
	}
	change(l)
	return nil
}

func addPortVLAN(l *netplug.Link, v netplug.PortVLAN) {
	delPortVLAN(l, v.ID)
	if v.PVID {
		for i := range l.PortVLANs {
			l.PortVLANs[i].PVID = false
		}
	}
	l.PortVLANs = append(l.PortVLANs, v)
	slices.SortFunc(l.PortVLANs, func(a, b netplug.PortVLAN) int { return a.ID - b.ID })
}

func delPortVLAN(l *netplug.Link, id int) {
	l.PortVLANs = slices.DeleteFunc(l.PortVLANs, func(v netplug.PortVLAN) bool { return v.ID == id })
}

func (f *Fake) findLink(name string) (*netplug.Link, error) {
	for i := range f.world.Links {
		if f.world.Links[i].Name == name {
			return &f.world.Links[i], nil
		}
	}
	return nil, fmt.Errorf("no link %s", name)
}

// addLink makes a link, with the kernel parameters that a link has.
func (f *Fake) addLink(l netplug.Link) error {
	if _, err := f.findLink(l.Name); err == nil {
		return fmt.Errorf("link %s exists", l.Name)
	}
	l.MTU = 1500
	f.world.Links = append(f.world.Links, l)
	f.world.Sysctls["net/ipv6/conf/"+l.Name+"/disable_ipv6"] = "0"
	f.world.Sysctls["net/ipv4/conf/"+l.Name+"/rp_filter"] = "0"
	f.world.Sysctls["net/ipv4/conf/"+l.Name+"/arp_ignore"] = "0"
	return nil
}

// delLink removes a link and its VLANs, and unplugs its ports.
func (f *Fake) delLink(name string) error {
	if _, err := f.findLink(name); err != nil {
		return err
	}
	f.world.Links = slices.DeleteFunc(f.world.Links, func(l netplug.Link) bool {
		return l.Name == name || l.Parent == name
	})
	for i, l := range f.world.Links {
		if l.Master == name {
			unplug(&f.world.Links[i])
		}
	}
	maps.DeleteFunc(f.world.Sysctls, func(k, _ string) bool { return strings.Contains(k, "/"+name+"/") })
	return nil
}

func unplug(l *netplug.Link) { l.Master, l.Isolated, l.PortVLANs = "", false, nil }

func (f *Fake) setMaster(o netplug.SetMaster) error {
	l, err := f.findLink(o.Link)
	if err != nil {
		return err
	}
	unplug(l)
	if o.Master == "" {
		return nil
	}
	m, err := f.findLink(o.Master)
	if err != nil {
		return err
	}
	if m.Kind != netplug.KindBridge {
		return fmt.Errorf("link %s is no bridge", m.Name)
	}
	l.Master = m.Name
	if m.VLANFiltering {
		l.PortVLANs = []netplug.PortVLAN{{ID: 1, PVID: true, Untagged: true}}
	}
	return nil
}

func (f *Fake) setSysctl(o netplug.SetSysctl) error {
	if _, ok := f.world.Sysctls[o.Key]; !ok {
		if o.Optional {
			return nil
		}
		return fmt.Errorf("no parameter %s", o.Key)
	}
	f.world.Sysctls[o.Key] = o.Value
	return nil
}
