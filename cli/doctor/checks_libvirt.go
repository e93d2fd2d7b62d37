package doctor

import (
	"fmt"
	"strconv"
	"strings"
)

func checkLibvirt(f Facts) []Finding {
	const check = "libvirt"
	if f.Libvirt.Err == "" {
		return pass(check, f.Libvirt.Version)
	}
	finding := fail(check, f.Libvirt.Err, "apt-get install libvirt-daemon-system libvirt-clients, then systemctl enable --now libvirtd")
	if f.Programs["libvirtd"] == "" || !f.Service.Systemd {
		return finding
	}
	return repairedBy(finding, Repair{Commands: [][]string{{"systemctl", "enable", "--now", "libvirtd.service"}}})
}

// daemonDefaults are libvirtd's own limits. The agent's connections are made for them: see
// "Long calls have their own connections" in DESIGN.md.
var daemonDefaults = []struct {
	setting string
	value   int
}{
	{"max_clients", 5000}, {"max_workers", 20}, {"max_client_requests", 5}, {"max_anonymous_clients", 20}, {"max_queued_clients", 20},
}

// checkDaemonLimits warns of limits below libvirt's own: calls of the agent would wait for
// each other, and a hung guest could keep all guests of the host from being asked.
func checkDaemonLimits(f Facts) []Finding {
	const check = "libvirtd's limits"
	var low []string
	for _, limit := range daemonDefaults {
		if set, err := strconv.Atoi(f.Libvirt.Daemon[limit.setting]); err == nil && set < limit.value {
			low = append(low, fmt.Sprintf("%s = %d (default %d)", limit.setting, set, limit.value))
		}
	}
	if len(low) > 0 {
		return warn(check, "lowered: "+strings.Join(low, ", "), "remove these lines from /etc/libvirt/libvirtd.conf, then systemctl restart libvirtd; guests go on")
	}
	return pass(check, "libvirt's defaults, or more")
}

// checkShutdown checks that something waits to end guests when the host is shut down. A program
// that was installed by hand and replaced by a newer one has no such unit.
func checkShutdown(f Facts) []Finding {
	const check, unit = "shutdown", "virtmesh-shutdown.service"
	s := f.Service
	start := [][]string{{"systemctl", "daemon-reload"}, {"systemctl", "add-wants", "virtmesh.service", unit}, {"systemctl", "start", unit}}
	switch {
	case !s.Systemd || !f.Member || s.Taken == "":
		return nil
	case s.EndsGuests:
		return pass(check, "ends guests in order")
	case s.HasShutdownUnit:
		return repairedBy(warn(check, unit+" does not run: a shutdown of the host cuts the power of its guests", "systemctl start virtmesh-shutdown"),
			Repair{Commands: start[2:]})
	case s.Packaged != "" || s.ShutdownUnit == "":
		return warn(check, "there is no "+unit+": a shutdown of the host cuts the power of its guests", "install the package anew")
	}
	return repairedBy(warn(check, "there is no "+unit+": a shutdown of the host cuts the power of its guests", "write the unit for "+s.Runs+": --fix does"),
		Repair{Files: []File{{Path: "/etc/systemd/system/" + unit, Text: s.ShutdownUnit}}, Commands: start})
}

// checkGuestsService warns of a libvirt-guests that starts guests at boot: the mesh decides
// where a machine runs, and may have started it elsewhere meanwhile.
func checkGuestsService(f Facts) []Finding {
	const check = "libvirt-guests"
	onBoot, onShutdown := f.Libvirt.Guests["ON_BOOT"], f.Libvirt.Guests["ON_SHUTDOWN"]
	const fix = "set ON_BOOT=ignore and ON_SHUTDOWN=shutdown in /etc/default/libvirt-guests"
	switch {
	case !f.Service.Systemd:
		return nil
	case !f.Libvirt.GuestsEnabled:
		return pass(check, "does not run, and is not needed")
	case onBoot == "start":
		return fail(check, "ON_BOOT=start: it starts guests at boot, although the mesh may run them on another host", fix)
	case onShutdown == "suspend":
		return fail(check, "ON_SHUTDOWN=suspend: it saves guests to disk, and the mesh may start them anew on another host", fix)
	}
	return pass(check, "starts no guests, and saves none")
}

// checkQEMUUser checks that libvirt runs QEMU as the user whom the agent gives disks to.
func checkQEMUUser(f Facts) []Finding {
	const check = "QEMU's user"
	want, set := f.Config.Hypervisor.User, strings.TrimPrefix(f.QEMU.Settings["user"], "+")
	switch {
	case set == "root" || set == "0":
		return fail(check, "libvirt runs QEMU as root: a guest that breaks out of QEMU has the host", "remove the setting user from /etc/libvirt/qemu.conf, then systemctl restart libvirtd")
	case set != "" && set != want:
		return fail(check, fmt.Sprintf("libvirt runs QEMU as %s, and the agent gives disks to %s", set, want),
			fmt.Sprintf("remove the setting user from /etc/libvirt/qemu.conf, or set hypervisor.user in %s to %s", f.ConfigPath, set))
	}
	if f.QEMU.Settings["dynamic_ownership"] == "0" {
		return fail(check, "dynamic_ownership = 0: libvirt does not give guests their disks, so none can start",
			"remove the setting dynamic_ownership from /etc/libvirt/qemu.conf, then systemctl restart libvirtd")
	}
	return pass(check, want)
}

// checkGuestUIDs checks that the uids of guests are nobody else's: an account or a
// container with the uid of a guest could open the guest's disks, and the guest its files.
func checkGuestUIDs(f Facts) []Finding {
	const check = "guests' uids"
	r := f.Config.Hypervisor.UIDs()
	last := r.First + r.Count - 1
	for _, taken := range f.TakenUIDs {
		if taken.First <= last && taken.Last >= r.First {
			return warn(check, fmt.Sprintf("%d to %d, and %s has %s", r.First, last, taken.File, taken.Who),
				"give guests another range with hypervisor.guestUIDs in "+f.ConfigPath)
		}
	}
	return pass(check, fmt.Sprintf("%d to %d", r.First, last))
}

// checkSeccomp checks that QEMU's own filter of system calls is on; it is by default.
func checkSeccomp(f Facts) []Finding {
	const check = "seccomp"
	if f.QEMU.Settings["seccomp_sandbox"] == "0" {
		return warn(check, "switched off for QEMU", "remove the setting seccomp_sandbox from /etc/libvirt/qemu.conf, then systemctl restart libvirtd")
	}
	return pass(check, "")
}

// checkConfinement checks that libvirt gives each guest a profile of its own. Where the
// kernel can and libvirt does not, no guest starts, unless the configuration says otherwise:
// then users and file modes alone keep emulators apart.
func checkConfinement(f Facts) []Finding {
	const check = "confinement"
	if f.Libvirt.Err != "" {
		return nil
	}
	for _, model := range f.QEMU.Models {
		if model == "apparmor" || model == "selinux" {
			return pass(check, model)
		}
	}
	const without = "guests are not kept apart by AppArmor: "
	switch {
	case f.QEMU.AppArmor && f.Config.Hypervisor.WithoutAppArmor:
		return warn(check, without+"hypervisor.withoutAppArmor lets them start all the same", "remove this setting from "+f.ConfigPath+", and do what virtmesh doctor says then")
	case f.QEMU.Settings["security_driver"] == "none" && f.QEMU.AppArmor:
		return fail(check, without+"security_driver is none", "remove the setting security_driver from /etc/libvirt/qemu.conf, then systemctl restart libvirtd")
	case f.QEMU.AppArmor:
		return fail(check, without+"the kernel has it, and libvirtd does not use it", "apt-get install apparmor, then systemctl restart apparmor libvirtd")
	}
	return warn(check, without+"it is not switched on in the kernel", "apt-get install apparmor, and boot without apparmor=0")
}

// checkMemoryLimit checks that an emulator that takes too much memory is ended before the host
// has none left.
func checkMemoryLimit(f Facts) []Finding {
	const check = "emulators' memory"
	switch _, set := f.QEMU.Settings["cgroup_controllers"]; {
	case f.QEMU.LimitsMemory:
		return pass(check, "limited")
	case set:
		return warn(check, "libvirt cannot limit it: cgroup_controllers in qemu.conf leaves memory out",
			"remove the setting cgroup_controllers from /etc/libvirt/qemu.conf, then systemctl restart libvirtd")
	}
	return warn(check, "libvirt cannot limit it: the kernel's cgroup controller for memory is switched off",
		"boot without cgroup_disable=memory, with cgroups mounted at /sys/fs/cgroup")
}
