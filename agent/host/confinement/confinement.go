// Package confinement finds out what keeps the guests of a host apart from each other and
// from the host, and says what is missing.
package confinement

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/host/daemonconf"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
)

// Host is what of a host keeps guests apart.
type Host struct {
	// Models are the security models of libvirt.
	Models []string
	// Settings are those of libvirt for emulators.
	Settings map[string]string
	// AppArmor says that the kernel has it switched on, AppArmorOptional that the
	// administrator has guests start on this host without it all the same.
	AppArmor, AppArmorOptional bool
	// MemoryController says that the kernel can limit the memory of groups of processes.
	MemoryController bool
	// Landlock says that the kernel has it, so that the sandbox keeps files of others closed.
	Landlock bool
	// Sandbox says why no image can be converted in the sandbox; nil if images can.
	Sandbox error
}

// Read returns what the files below root, which is "/" but in tests, say of the host. It
// knows neither Models nor Sandbox. What cannot be read is not there: without settings,
// libvirt's defaults hold.
func Read(root string) Host {
	return Host{
		Settings:         daemonconf.Parse(text(root, "/etc/libvirt/qemu.conf")),
		AppArmor:         strings.TrimSpace(text(root, "/sys/module/apparmor/parameters/enabled")) == "Y",
		MemoryController: memoryController(text(root, "/sys/fs/cgroup/cgroup.controllers"), text(root, "/proc/cgroups")),
	}
}

func text(root, path string) string {
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return ""
	}
	return string(data)
}

// memoryController finds the controller for memory in the lists of controllers of both
// versions of cgroups. Those of version 1 without a hierarchy are not mounted.
func memoryController(version2, version1 string) bool {
	for line := range strings.Lines(version1) {
		if f := strings.Fields(line); len(f) == 4 && f[0] == "memory" && f[1] != "0" && f[3] == "1" {
			return true
		}
	}
	return slices.Contains(strings.Fields(version2), "memory")
}

// LimitsMemory reports whether libvirt can limit the memory of emulators.
func (h Host) LimitsMemory() bool {
	used, set := h.Settings["cgroup_controllers"]
	// A list over several lines is not read.
	return h.MemoryController && (!set || !strings.HasSuffix(used, "]") || strings.Contains(used, `"memory"`))
}

// hasProfiles reports whether libvirt gives each guest a profile of its own.
func (h Host) hasProfiles() bool {
	return slices.Contains(h.Models, "apparmor") || slices.Contains(h.Models, "selinux")
}

// Refusal returns why no guest may start on the host, nil if guests may. A host whose kernel
// can confine guests with profiles must do so, unless its administrator decided otherwise:
// else a host that lacks a package would run guests as if it had been meant.
func (h Host) Refusal() error {
	if !h.AppArmor || h.AppArmorOptional || h.hasProfiles() {
		return nil
	}
	return &hypervisor.Fault{
		Code: hypervisor.FaultUnconfined, Sentence: "the host's kernel has AppArmor, and libvirt gives guests no profiles of it",
		Remedy: "do what virtmesh doctor says on the host, or set hypervisor.withoutAppArmor in its agent.yaml",
	}
}

// Faults says what is missing, in whole clauses.
func (h Host) Faults() []string {
	var faults []string
	if !slices.Contains(h.Models, "dac") || h.Settings["dynamic_ownership"] == "0" {
		faults = append(faults, "libvirt gives guests no users of their own")
	}
	if h.Settings["seccomp_sandbox"] == "0" {
		faults = append(faults, "emulators run without seccomp")
	}
	if !h.hasProfiles() {
		faults = append(faults, "libvirt uses neither AppArmor nor SELinux")
	}
	if !h.LimitsMemory() {
		faults = append(faults, "libvirt cannot limit the memory of emulators")
	}
	if h.Sandbox != nil {
		faults = append(faults, h.Sandbox.Error())
	}
	return faults
}

// Condition tells on the host's Node how its guests are confined.
func (h Host) Condition() corev1.NodeCondition {
	if refusal := h.Refusal(); refusal != nil {
		return corev1.NodeCondition{Type: objects.NodeGuestsConfined, Status: corev1.ConditionFalse, Reason: "NoGuestStarts",
			Message: "No guest starts on this host: " + refusal.Error()}
	}
	if faults := h.Faults(); len(faults) > 0 {
		return corev1.NodeCondition{Type: objects.NodeGuestsConfined, Status: corev1.ConditionFalse, Reason: "ProtectionMissing",
			Message: strings.Join(faults, "; ") + "; virtmesh doctor on the host says what to do"}
	}
	sandbox := "with Landlock"
	if !h.Landlock {
		sandbox = "without Landlock, which the kernel does not have"
	}
	return corev1.NodeCondition{Type: objects.NodeGuestsConfined, Status: corev1.ConditionTrue, Reason: "Confined",
		Message: "Emulators have users of their own, seccomp, a limit of memory and profiles of " + strings.Join(h.Models, ", ") +
			"; images are converted in a sandbox " + sandbox}
}

// Finder finds out again and again what keeps guests apart. It is used by one goroutine at a
// time.
type Finder struct {
	// Root is where the host's files are: "/", but in tests.
	Root string
	// TrySandbox returns why nothing can run in the sandbox for converters. It is called
	// until it returns nil once.
	TrySandbox func(context.Context) error
	// AppArmorOptional and Landlock are what a Host has of that name.
	AppArmorOptional, Landlock bool

	// read is what the files said when known was set.
	read         Host
	known        bool
	sandboxWorks bool
}

// Find returns what keeps guests apart now. models are the security models that libvirt has.
// Files are read only once until Forget: libvirtd reads its own when it starts.
func (f *Finder) Find(ctx context.Context, models []string) Host {
	if !f.known {
		f.read, f.known = Read(f.Root), true
	}
	h := f.read
	h.Models, h.AppArmorOptional, h.Landlock = models, f.AppArmorOptional, f.Landlock
	if !f.sandboxWorks {
		h.Sandbox = f.TrySandbox(ctx)
		f.sandboxWorks = h.Sandbox == nil
	}
	return h
}

// Forget is called when libvirtd may be another process than before.
func (f *Finder) Forget() { f.known = false }
