package domain

import (
	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"

	machine "virtmesh/agent/vmi"
)

// defaultMachine is the machine type of a VMI that names none.
const defaultMachine = "q35"

// CanonicalMachine returns the machine type that name stands for on this host. An alias
// such as q35 means another machine after an upgrade of QEMU; pc-q35-7.2 always means
// the same one.
func (h HostInfo) CanonicalMachine(name string) string {
	if name == "" {
		name = defaultMachine
	}
	if canonical, ok := h.Canonical[name]; ok {
		return canonical
	}
	return name
}

// bootMenuMillis is how long a guest that starts paused shows its boot menu after it is
// resumed, so that the user can enter the firmware setup.
const bootMenuMillis = "10000"

// operatingSystem chooses the machine and how it boots.
func operatingSystem(c *conversion) {
	const arch = "x86_64"
	if c.Machine.Arch != "" && c.Machine.Arch != arch {
		c.unsupported(c.root.Root().Child("architecture"), c.VMI.Spec.Architecture, "this host is %s, guests need %s", c.Machine.Arch, arch)
	}
	if a := c.VMI.Spec.Architecture; a != "" && a != "amd64" {
		c.unsupported(c.root.Root().Child("architecture"), a, "only amd64 guests can run")
	}
	kind := c.Machine.CanonicalMachine(machine.MachineType(c.VMI))
	c.out.OS.Type = &libvirtxml.DomainOSType{Arch: arch, Machine: kind, Type: "hvm"}
	if s := c.VMI.Spec.StartStrategy; s != nil && *s == v1.StartStrategyPaused {
		c.out.OS.BootMenu = &libvirtxml.DomainBootMenu{Enable: "yes", Timeout: bootMenuMillis}
	}
	kernelBoot(c)
}

// kernelBoot starts a kernel that the host has fetched, without a boot loader.
func kernelBoot(c *conversion) {
	f := c.domain.Firmware
	if f == nil || f.KernelBoot == nil {
		return
	}
	path := c.root.Child("firmware", "kernelBoot")
	if source := f.KernelBoot.Container; source != nil {
		if source.KernelPath != "" && c.KernelBoot.Kernel == "" {
			c.invalid(path.Child("container", "kernelPath"), source.KernelPath, "the kernel has not been fetched")
		}
		if source.InitrdPath != "" && c.KernelBoot.Initrd == "" {
			c.invalid(path.Child("container", "initrdPath"), source.InitrdPath, "the initrd has not been fetched")
		}
	} else if f.KernelBoot.KernelArgs != "" {
		c.invalid(path.Child("kernelArgs"), f.KernelBoot.KernelArgs, "needs a kernel")
	}
	c.out.OS.Kernel = c.KernelBoot.Kernel
	c.out.OS.Initrd = c.KernelBoot.Initrd
	c.out.OS.Cmdline = f.KernelBoot.KernelArgs
}
