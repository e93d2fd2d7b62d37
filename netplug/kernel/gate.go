package kernel

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtmesh/netplug"
)

// gateName is the name of the gate's filter, by which it is found again.
const gateName = "virtmesh"

// Verdicts of a program at a hook of traffic control, and the offset of the mark in its view
// of a packet (linux/pkt_cls.h, linux/bpf.h).
const (
	actUnspec  = -1
	actShot    = 2
	offsetMark = 8
)

// gateProgram takes GateMark from a packet that has it, and drops one that does not.
func gateProgram() *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Name: gateName, Type: ebpf.SchedCLS, License: "Apache-2.0",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, offsetMark, asm.Word),
			asm.Mov.Reg(asm.R3, asm.R2),
			asm.And.Imm(asm.R3, netplug.GateMark),
			asm.JEq.Imm(asm.R3, 0, "drop"),
			asm.Xor.Imm(asm.R2, netplug.GateMark),
			asm.StoreMem(asm.R1, offsetMark, asm.R2, asm.Word),
			asm.Mov.Imm(asm.R0, actUnspec),
			asm.Return(),
			asm.Mov.Imm(asm.R0, actShot).WithSymbol("drop"),
			asm.Return(),
		},
	}
}

// setGate makes the gate of a bridge: a BPF program where packets leave the bridge for the
// host's network layer. If the kernel lacks what it needs, Observe reports that from then on.
func (k *Kernel) setGate(l netlink.Link) error {
	err := attachGate(k.handle, l)
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) ||
		errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		// ENOENT: no such kind of queue or classifier. EPERM: a locked down kernel.
		k.noGates.Store(true)
		return fmt.Errorf("gate by BPF (CONFIG_NET_CLS_BPF): %w: %w", netplug.ErrUnsupported, err)
	}
	return err
}

func attachGate(h *netlink.Handle, l netlink.Link) error {
	program, err := ebpf.NewProgram(gateProgram())
	if err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	defer program.Close() // the filter holds it
	index := l.Attrs().Index
	queue := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := h.QdiscAdd(queue); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add queue clsact: %w", err)
	}
	err = h.FilterReplace(&netlink.BpfFilter{
		FilterAttrs:  netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
		Fd:           program.FD(),
		Name:         gateName,
		DirectAction: true,
	})
	if err != nil {
		return fmt.Errorf("add filter: %w", err)
	}
	return nil
}

// gatedBridges returns the indexes of the bridges with an alias that have a gate: those of
// netplug have one.
func (k *Kernel) gatedBridges(links []netlink.Link) (map[int]bool, error) {
	gated := map[int]bool{}
	for _, l := range links {
		if _, ok := l.(*netlink.Bridge); !ok || l.Attrs().Alias == "" {
			continue
		}
		on, err := k.gated(l)
		if err != nil {
			return nil, err
		}
		gated[l.Attrs().Index] = on
	}
	return gated, nil
}

// gated reports whether the gate of a bridge is there.
func (k *Kernel) gated(l netlink.Link) (bool, error) {
	filters, err := listUndisturbed(func() ([]netlink.Filter, error) { return k.handle.FilterList(l, netlink.HANDLE_MIN_INGRESS) })
	if err != nil {
		return false, fmt.Errorf("list filters of %s: %w", l.Attrs().Name, err)
	}
	for _, f := range filters {
		if bpf, ok := f.(*netlink.BpfFilter); ok && bpf.Name == gateName && bpf.DirectAction {
			return true, nil
		}
	}
	return false, nil
}
