package doctor

import (
	"fmt"
	"slices"
	"strings"
)

func checkRoot(f Facts) []Finding {
	if !f.Root {
		return fail("root", "not root", "run the agent and this check as root")
	}
	return pass("root", "")
}

// checkConfig is silent when the configuration can be used: the other checks use it.
func checkConfig(f Facts) []Finding {
	if f.ConfigErr != nil {
		return fail("configuration", f.ConfigErr.Error(), "correct "+f.ConfigPath)
	}
	return nil
}

// checkMembership is silent unless this host was expelled from its mesh.
func checkMembership(f Facts) []Finding {
	if f.Expelled == nil {
		return nil
	}
	guests := "its guests are being ended"
	if f.Expelled.GuestsEnded {
		guests = "its guests have ended, and their disks are as they were"
	}
	return fail("membership", fmt.Sprintf("this host was expelled from its mesh, say %s: %s", strings.Join(f.Expelled.By, ", "), guests),
		"systemctl stop virtmesh, then virtmesh agent leave --local --yes; join again with a new token")
}

func checkVirtualization(f Facts) []Finding {
	const check = "virtualization"
	switch {
	case f.KVM.Err != nil:
		return fail(check, f.KVM.Err.Error(), "install qemu-system-x86")
	case !f.KVM.Usable:
		return warn(check, f.KVM.Reason,
			"guests will be emulated, which is slow; switch on VT-x or AMD-V in the firmware, or nested virtualization on the machine this one runs on")
	}
	return pass(check, "KVM runs guests")
}

// program is a program that the agent or libvirt calls.
type program struct {
	name, debianPackage string
	optional            bool
}

var wantedPrograms = []program{
	{name: "qemu-system-x86_64", debianPackage: "qemu-system-x86"},
	{name: "qemu-img", debianPackage: "qemu-utils"},
	{name: "nft", debianPackage: "nftables"},
	{name: "swtpm", debianPackage: "swtpm", optional: true},
	{name: "swtpm_setup", debianPackage: "swtpm-tools", optional: true},
	{name: "ip", debianPackage: "iproute2", optional: true},
}

func checkPrograms(f Facts) []Finding {
	var findings []Finding
	for _, p := range wantedPrograms {
		path, fix := f.Programs[p.name], "apt-get install "+p.debianPackage
		switch {
		case path != "":
			findings = append(findings, pass(p.name, path)...)
		case p.optional:
			findings = append(findings, warn(p.name, "not installed", fix)...)
		default:
			findings = append(findings, fail(p.name, "not installed", fix)...)
		}
	}
	return findings
}

func checkFirmware(f Facts) []Finding {
	if f.Firmware == "" {
		return warn("ovmf", "not installed: machines with EFI cannot start", "apt-get install ovmf")
	}
	return pass("ovmf", f.Firmware)
}

// wantedModules are what guest networks need; a module may be built in.
var wantedModules = []string{"bridge", "veth", "tun", "nf_tables", "vxlan"}

func checkKernel(f Facts) []Finding {
	var missing []string
	for _, module := range wantedModules {
		if !f.Modules[module] {
			missing = append(missing, module)
		}
	}
	if len(missing) > 0 {
		return warn("kernel", "not found: "+strings.Join(missing, " "), "install Debian's full kernel (linux-image-amd64)")
	}
	return pass("kernel", strings.Join(wantedModules, " "))
}

// wantedDisk is what images and volumes need at least, and wantedState what the copy of the
// mesh's state grows to. In bytes.
const (
	wantedDisk  = 10 << 30
	wantedState = 2 << 30
)

// checkFilesystems checks that each role has room. A host whose state has none can write
// nothing; one whose images and volumes have none starts no guests.
func checkFilesystems(f Facts) []Finding {
	const check = "disk"
	var findings []Finding
	for _, fs := range f.Filesystems {
		roles := strings.Join(fs.Roles, ", ")
		if fs.Err != nil {
			findings = append(findings, fail(check, fmt.Sprintf("%s (%s): %v", fs.Dir, roles, fs.Err), "make "+fs.Dir+" a directory on a file system that answers")...)
			continue
		}
		detail := fmt.Sprintf("%.1f GiB free in %s, for %s", gibibytes(fs.Free), fs.Dir, roles)
		holdsImages := slices.Contains(fs.Roles, roleImages)
		switch cache := f.Config.Images.MaxBytes; {
		case fs.Free < wantedState && slices.Contains(fs.Roles, roleState):
			findings = append(findings, warn(check, detail, "the copy of the mesh's state may need up to 1 GB: make room, or the agent stops working")...)
		case fs.Free < wantedDisk:
			findings = append(findings, warn(check, detail, "images and volumes need room: keep at least 10 GiB free")...)
		case holdsImages && cache > fs.Total:
			findings = append(findings, warn(check, fmt.Sprintf("%s; images.maxBytes is %.1f GiB, more than the file system has", detail, gibibytes(cache)),
				"set images.maxBytes in "+f.ConfigPath+" below the size of the file system, and leave room for volumes")...)
		default:
			findings = append(findings, pass(check, detail)...)
		}
	}
	return findings
}

func gibibytes(n int64) float64 { return float64(n) / (1 << 30) }

func checkPaths(f Facts) []Finding {
	const check = "paths to disks"
	user := f.Config.Hypervisor.User
	for _, passage := range f.Paths {
		if passage.Err != nil {
			return fail(check, passage.Err.Error(), "apt-get install libvirt-daemon-system, or correct hypervisor.user and the paths in "+f.ConfigPath)
		}
		if passage.Closed != "" {
			return fail(check, fmt.Sprintf("%s is closed to user %s or to guests' own users, so no guest whose disks are below it can start", passage.Closed, user),
				fmt.Sprintf("chmod o+x %s (lets others pass through it, not list it)", passage.Closed))
		}
	}
	return pass(check, fmt.Sprintf("user %s reaches %s", user, f.Config.StateDir))
}

func checkPools(f Facts) []Finding {
	var unusable []string
	for _, pool := range f.Pools {
		if pool.Err != nil {
			unusable = append(unusable, pool.Err.Error())
		}
	}
	if len(unusable) > 0 {
		return warn("pools", strings.Join(unusable, "; "), "machines that need such a pool wait until it can be used; the agent tries again by itself")
	}
	return pass("pools", fmt.Sprint(len(f.Pools)))
}

func checkClock(f Facts) []Finding {
	const check = "clock"
	if f.Clock.Synchronised {
		return pass(check, strings.TrimSpace("synchronised "+f.Clock.Service))
	}
	const fix = "a host whose clock is off by more than 30 s cannot join"
	switch {
	case f.Clock.Service != "":
		return warn(check, "not synchronised, although "+f.Clock.Service+" runs", "it may need a minute after its start, or cannot reach its servers; "+fix)
	case f.Clock.Available != "":
		return repairedBy(warn(check, "not synchronised", "systemctl enable --now "+f.Clock.Available+": "+fix),
			Repair{Commands: [][]string{{"systemctl", "enable", "--now", f.Clock.Available}}})
	}
	return warn(check, "not synchronised", "run a time service, such as systemd-timesyncd or chrony: "+fix)
}

func checkPorts(f Facts) []Finding {
	var findings []Finding
	for _, port := range f.Ports {
		switch {
		case port.Err == nil:
			findings = append(findings, pass(port.What, port.Address)...)
		case port.Ours:
			findings = append(findings, pass(port.What, port.Address+" is in use by this host's agent")...)
		default:
			findings = append(findings, fail(port.What, fmt.Sprintf("%s %s is in use%s (%v)", port.Address, port.Network, port.User, port.Err),
				"free the port, or choose another: before the host joins with a flag, afterwards in "+f.ConfigPath)...)
		}
	}
	return findings
}

// checkService checks that the agent starts at boot, and that an update of the package
// updates it.
func checkService(f Facts) []Finding {
	const check = "service"
	s := f.Service
	switch {
	case !s.Systemd || !f.Member:
		return nil
	case s.Taken == "":
		return warn(check, "no unit virtmesh.service: nothing starts the agent at boot", "install the package")
	case s.Packaged != "" && s.Taken != s.Packaged && s.Runs != s.PackagedRuns:
		return warn(check, fmt.Sprintf("%s hides the package's unit and runs %s", s.Taken, s.Runs),
			fmt.Sprintf("rm %s && systemctl daemon-reload && systemctl restart virtmesh", s.Taken))
	case !s.Enabled:
		return repairedBy(warn(check, "the agent does not start at boot", "systemctl enable virtmesh"),
			Repair{Commands: [][]string{{"systemctl", "enable", "virtmesh.service"}}})
	}
	return pass(check, s.Taken)
}

// checkGuestServices checks that somebody answers guests. The unit starts with the agent's and
// outlives it, so on a host of a mesh it always runs.
func checkGuestServices(f Facts) []Finding {
	const check = "guest services"
	s := f.Service
	switch {
	case !s.Systemd || !f.Member || s.Taken == "" || s.GuestServices == "":
		return nil
	case s.GuestServices != "active":
		return warn(check, "virtmesh-guest-services is "+s.GuestServices+": guests get no answers to DHCP and DNS",
			"systemctl restart virtmesh-guest-services; 'journalctl -u virtmesh-guest-services' says why it ended")
	}
	return pass(check, "active")
}
