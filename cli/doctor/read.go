package doctor

import (
	"context"
	"encoding/xml"
	"errors"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"virtmesh/agent"
	"virtmesh/agent/host/confinement"
	"virtmesh/agent/host/daemonconf"
	"virtmesh/agent/host/hypervisor/kvmprobe"
	"virtmesh/agent/host/network"
	"virtmesh/agent/identity"
	"virtmesh/netplug/guestservices"
)

// reader reads a machine: files below a root directory, and what programs say.
type reader struct{ root string }

// Read reads what the checks need to know of this machine. It changes nothing. What cannot
// be read is left out, or noted with its error where that matters. A file system that does
// not answer costs some seconds.
func Read(ctx context.Context, configPath string) Facts {
	r := reader{root: "/"}
	f := Facts{Root: os.Geteuid() == 0, ConfigPath: configPath, Config: agent.DefaultConfig()}
	config, err := agent.LoadConfig(configPath)
	switch {
	case err == nil:
		f.Config, f.Member = config, true
	case !errors.Is(err, fs.ErrNotExist):
		f.ConfigErr = err
	}
	if expelled, found, err := identity.ReadExpulsion(f.Config.StateDir); found && err == nil {
		f.Expelled = &expelled
	}
	probed, err := kvmprobe.Probe(ctx, kvmprobe.DefaultConfig())
	f.KVM = Virtualization{Usable: probed.Usable, Reason: probed.Reason, Err: err}
	f.Programs = readPrograms()
	f.Firmware = r.firmware()
	f.Service = r.service(ctx)
	f.Libvirt = r.libvirt(ctx, f.Config.Hypervisor.URI)
	f.QEMU = r.qemu(ctx, f.Config.Hypervisor.URI)
	f.TakenUIDs = r.takenUIDs()
	f.Modules = map[string]bool{}
	for _, module := range wantedModules {
		f.Modules[module] = r.kernelHas(ctx, module)
	}
	f.readFiles()
	f.Clock = readClock(ctx)
	f.Neighbours = r.neighbours(ctx)
	// Without an answer there are no routes to compare with.
	f.Routes, _ = network.HostRoutes()
	f.NameServers = readNameServers()
	if f.Member {
		f.Status = readStatus(ctx, f.Config.Socket())
	}
	if f.ConfigErr == nil {
		f.Ports = readPorts(ctx, f.Config)
	}
	return f
}

// output returns what a program prints, "" if it is missing or fails.
func output(ctx context.Context, name string, args ...string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// text returns the content of a file, "" if it cannot be read.
func (r reader) text(path string) string {
	data, err := os.ReadFile(filepath.Join(r.root, path))
	if err != nil {
		return ""
	}
	return string(data)
}

// glob returns the files that match a pattern, by their paths on the machine.
func (r reader) glob(pattern string) []string {
	found, _ := filepath.Glob(filepath.Join(r.root, pattern))
	for i, path := range found {
		found[i] = filepath.Join("/", strings.TrimPrefix(path, r.root))
	}
	return found
}

// settings returns the values of a file of lines KEY = VALUE, as libvirt's configuration and
// /etc/default have them, without quotes.
func (r reader) settings(path string) map[string]string {
	return daemonconf.Parse(r.text(path))
}

func readPrograms() map[string]string {
	found := map[string]string{}
	for _, p := range append([]program{{name: "libvirtd"}}, wantedPrograms...) {
		if path, err := exec.LookPath(p.name); err == nil {
			found[p.name] = path
		}
	}
	return found
}

// firmware looks for the firmware of guests with EFI, where distributions put it.
func (r reader) firmware() string {
	for _, pattern := range []string{"/usr/share/OVMF/OVMF_CODE*", "/usr/share/edk2/ovmf/OVMF_CODE*", "/usr/share/qemu/ovmf-*", "/usr/share/edk2/x64/OVMF_CODE*"} {
		if found := r.glob(pattern); len(found) > 0 {
			return filepath.Dir(found[0])
		}
	}
	return ""
}

func (r reader) libvirt(ctx context.Context, uri string) Libvirt {
	l := Libvirt{
		Daemon: r.settings("/etc/libvirt/libvirtd.conf"), Guests: r.settings("/etc/default/libvirt-guests"),
		GuestsEnabled: output(ctx, "systemctl", "is-enabled", "libvirt-guests.service") != "",
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "virsh", "--connect", uri, "version", "--daemon").CombinedOutput()
	if err != nil {
		l.Err, _, _ = strings.Cut(strings.TrimSpace(string(out)), "\n")
		if l.Err == "" {
			l.Err = err.Error() // virsh itself is missing, or hangs
		}
		return l
	}
	for line := range strings.Lines(string(out)) {
		if version, ok := strings.CutPrefix(line, "Running against daemon: "); ok {
			l.Version = strings.TrimSpace(version)
		}
	}
	return l
}

func (r reader) qemu(ctx context.Context, uri string) QEMU {
	var capabilities struct {
		Models []string `xml:"host>secmodel>model"`
	}
	// Without an answer there are no models, and libvirt's own check says why.
	_ = xml.Unmarshal([]byte(output(ctx, "virsh", "--connect", uri, "capabilities")), &capabilities)
	host := confinement.Read(r.root)
	return QEMU{
		Settings: host.Settings, Models: capabilities.Models, LimitsMemory: host.LimitsMemory(),
		AppArmor: host.AppArmor,
	}
}

// takenUIDs reads the uids of accounts, and those that users may give to containers.
func (r reader) takenUIDs() []UIDs {
	var taken []UIDs
	for line := range strings.Lines(r.text("/etc/passwd")) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) < 3 {
			continue
		}
		if uid, err := strconv.ParseUint(fields[2], 10, 32); err == nil {
			taken = append(taken, UIDs{uint32(uid), uint32(uid), "/etc/passwd", "account " + fields[0]})
		}
	}
	for line := range strings.Lines(r.text("/etc/subuid")) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 3 {
			continue
		}
		first, err := strconv.ParseUint(fields[1], 10, 32)
		count, countErr := strconv.ParseUint(fields[2], 10, 32)
		if err == nil && countErr == nil && count > 0 {
			last := min(first+count-1, math.MaxUint32)
			taken = append(taken, UIDs{uint32(first), uint32(last), "/etc/subuid", "uids for the containers of " + fields[0]})
		}
	}
	return taken
}

// kernelHas looks for a loaded, built-in or loadable module, or for the feature itself where
// it shows.
func (r reader) kernelHas(ctx context.Context, module string) bool {
	if _, err := os.Stat(filepath.Join(r.root, "sys/module", module)); err == nil {
		return true
	}
	if module == "tun" {
		_, err := os.Stat(filepath.Join(r.root, "dev/net/tun"))
		return err == nil
	}
	if exec.CommandContext(ctx, "modprobe", "--dry-run", "--quiet", module).Run() == nil {
		return true
	}
	config, err := exec.CommandContext(ctx, "zgrep", "-qi", "^CONFIG_"+module+"=[ym]", "/proc/config.gz").CombinedOutput()
	return err == nil && len(config) == 0
}

func readClock(ctx context.Context) Clock {
	const unsynchronised = 5 // adjtimex(2): TIME_ERROR
	var t syscall.Timex
	state, err := syscall.Adjtimex(&t)
	clock := Clock{Synchronised: err == nil && state != unsynchronised}
	for _, unit := range []string{"chrony", "systemd-timesyncd", "ntpsec", "ntp"} {
		if strings.TrimSpace(output(ctx, "systemctl", "is-active", unit+".service")) == "active" {
			clock.Service = unit
		}
		if clock.Available == "" && output(ctx, "systemctl", "cat", unit+".service") != "" {
			clock.Available = unit
		}
	}
	return clock
}

func (r reader) neighbours(ctx context.Context) Neighbours {
	n := Neighbours{
		UFW:            output(ctx, "ufw", "status"),
		FirewalldState: output(ctx, "firewall-cmd", "--state"),
		IPTables:       output(ctx, "iptables", "-S"),
		BridgeFrames:   strings.TrimSpace(r.text("/proc/sys/net/bridge/bridge-nf-call-iptables")) == "1",
		NetworkManager: strings.TrimSpace(output(ctx, "nmcli", "-t", "-f", "RUNNING", "general")) == "running",
		Networkd:       strings.TrimSpace(output(ctx, "systemctl", "is-active", "systemd-networkd.service")) == "active",
	}
	if n.FirewalldState != "" {
		n.FirewalldZone = output(ctx, "firewall-cmd", "--get-zone-of-interface="+network.PodBridge)
	}
	for _, dir := range []string{"/etc", "/run", "/usr/lib"} {
		for _, file := range r.glob(dir + "/NetworkManager/conf.d/*.conf") {
			n.NetworkManagerLeavesUsAlone = n.NetworkManagerLeavesUsAlone || strings.Contains(r.text(file), network.PodBridge)
		}
		for _, file := range r.glob(dir + "/systemd/network/*.network") {
			n.NetworkFiles = append(n.NetworkFiles, NetworkFile{Path: file, Text: r.text(file)})
		}
	}
	return n
}

// service finds the agent's unit where systemd looks for it, the administrator's first, and
// how the units are that the agent's starts.
func (r reader) service(ctx context.Context) Service {
	_, err := os.Stat(filepath.Join(r.root, "run/systemd/system"))
	s := Service{Systemd: err == nil, Enabled: output(ctx, "systemctl", "is-enabled", "virtmesh.service") != "",
		EndsGuests:      output(ctx, "systemctl", "is-active", "virtmesh-shutdown.service") != "",
		HasShutdownUnit: strings.TrimSpace(output(ctx, "systemctl", "show", "virtmesh-shutdown.service", "-P", "LoadState")) == "loaded"}
	if show := []string{"show", guestservices.UnitName, "-P"}; strings.TrimSpace(output(ctx, "systemctl", append(show, "LoadState")...)) == "loaded" {
		s.GuestServices = strings.TrimSpace(output(ctx, "systemctl", append(show, "ActiveState")...))
	}
	for _, dir := range []string{"/etc", "/usr/lib", "/lib"} {
		path := dir + "/systemd/system/virtmesh.service"
		text := r.text(path)
		if text == "" {
			continue
		}
		_, command, _ := strings.Cut(text, "\nExecStart=")
		runs, _, _ := strings.Cut(command, " ")
		if s.Taken == "" {
			s.Taken, s.Runs = path, runs
		}
		if dir != "/etc" && s.Packaged == "" {
			s.Packaged, s.PackagedRuns = path, runs
		}
	}
	return s
}
