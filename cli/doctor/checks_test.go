package doctor

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"virtmesh/agent"
	"virtmesh/agent/host"
	"virtmesh/agent/identity"
	"virtmesh/agent/port/admin"
	"virtmesh/netplug"
	"virtmesh/storage/bounded"
)

// healthy is a machine on which nothing is in the way.
func healthy() Facts {
	f := Facts{
		Root: true, ConfigPath: "/etc/virtmesh/agent.yaml", Member: true, Config: agent.DefaultConfig(),
		KVM: Virtualization{Usable: true}, Programs: map[string]string{"libvirtd": "/usr/sbin/libvirtd"}, Firmware: "/usr/share/OVMF",
		Libvirt:     Libvirt{Version: "9.0.0", GuestsEnabled: true},
		QEMU:        QEMU{Models: []string{"apparmor", "dac"}, AppArmor: true, LimitsMemory: true},
		Modules:     map[string]bool{},
		Filesystems: []Filesystem{{Dir: "/var/lib", Roles: []string{"state", "images", "pool local"}, Free: 100 << 30, Total: 200 << 30}},
		Paths:       []Passage{{Path: "/var/lib/virtmesh"}}, Pools: []Pool{{Name: "local"}},
		Clock:   Clock{Synchronised: true, Service: "chrony"},
		Ports:   []Port{{What: "mesh port", Address: ":7443"}},
		Routes:  []netplug.Route{{Destination: netip.MustParsePrefix("192.0.2.0/24"), Device: "eth0"}},
		Service: Service{Systemd: true, Taken: "/usr/lib/x", Packaged: "/usr/lib/x", Runs: "/usr/bin/virtmesh", PackagedRuns: "/usr/bin/virtmesh", Enabled: true, EndsGuests: true, HasShutdownUnit: true, ShutdownUnit: "[Unit]", GuestServices: "active"},
	}
	f.Status = &admin.Status{Host: "host1", Members: []admin.Member{{Name: "host1", Role: "leader"}}, Keyring: &admin.KeyringStatus{
		Bundle: &admin.KeyringBundle{Made: time.Date(2026, 11, 26, 12, 0, 0, 0, time.Local), Host: "host1", Current: true},
	}}
	for _, p := range wantedPrograms {
		f.Programs[p.name] = "/usr/bin/" + p.name
	}
	for _, module := range wantedModules {
		f.Modules[module] = true
	}
	return f
}

func TestHealthyMachine(t *testing.T) {
	for _, f := range Examine(healthy()) {
		if f.Result != Passed || f.Fix != "" || f.Repair != nil {
			t.Errorf("on a machine that is well: %+v", f)
		}
	}
}

// TestChecks puts one thing in the way of a healthy machine at a time. Exactly the named
// check must speak, say what it saw, and say what to do.
func TestChecks(t *testing.T) {
	type change = func(f *Facts)
	for name, test := range map[string]struct {
		change change
		check  string
		result Result
		detail string
		repair string // what --fix does; "" if nothing
	}{
		"no bundle":                  {func(f *Facts) { f.Status.Keyring = &admin.KeyringStatus{CAKeyInState: true} }, "recovery bundle", Warning, "every host and every backup holds the key", ""},
		"a bundle of before":         {func(f *Facts) { f.Status.Keyring.BundlesStayGood = true }, "recovery bundle", Warning, "is of an earlier version: each key that is replaced waits for another bundle", ""},
		"an old bundle":              {func(f *Facts) { f.Status.Keyring.Bundle.Current = false }, "recovery bundle", Warning, "that of 2026-11-26 does not hold the present keys", ""},
		"not root":                   {func(f *Facts) { f.Root = false }, "root", Failed, "not root", ""},
		"bad configuration":          {func(f *Facts) { f.ConfigErr = errors.New("unknown field") }, "configuration", Failed, "unknown field", ""},
		"no QEMU to probe":           {func(f *Facts) { f.KVM.Err = errors.New("no emulator") }, "virtualization", Failed, "no emulator", ""},
		"no KVM":                     {func(f *Facts) { f.KVM = Virtualization{Reason: "no /dev/kvm"} }, "virtualization", Warning, "no /dev/kvm", ""},
		"no nft":                     {func(f *Facts) { delete(f.Programs, "nft") }, "nft", Failed, "not installed", ""},
		"no swtpm":                   {func(f *Facts) { delete(f.Programs, "swtpm") }, "swtpm", Warning, "not installed", ""},
		"no firmware":                {func(f *Facts) { f.Firmware = "" }, "ovmf", Warning, "EFI", ""},
		"libvirtd is down":           {func(f *Facts) { f.Libvirt.Err = "cannot connect"; f.QEMU.Models = nil }, "libvirt", Failed, "cannot connect", "systemctl enable --now libvirtd.service"},
		"libvirt is missing":         {func(f *Facts) { f.Libvirt.Err = "no virsh"; delete(f.Programs, "libvirtd") }, "libvirt", Failed, "no virsh", ""},
		"few workers":                {func(f *Facts) { f.Libvirt.Daemon = map[string]string{"max_workers": "5"} }, "libvirtd's limits", Warning, "max_workers = 5 (default 20)", ""},
		"few requests":               {func(f *Facts) { f.Libvirt.Daemon = map[string]string{"max_client_requests": "1"} }, "libvirtd's limits", Warning, "max_client_requests = 1", ""},
		"expelled":                   {func(f *Facts) { f.Expelled = &identity.Expulsion{By: []string{"host1", "host2"}} }, "membership", Failed, "host1, host2: its guests are being ended", ""},
		"expelled, its guests ended": {func(f *Facts) { f.Expelled = &identity.Expulsion{By: []string{"host1"}, GuestsEnded: true} }, "membership", Failed, "guests have ended", ""},
		"guests start at boot":       {func(f *Facts) { f.Libvirt.Guests = map[string]string{"ON_BOOT": "start"} }, "libvirt-guests", Failed, "ON_BOOT=start", ""},
		"guests are saved":           {func(f *Facts) { f.Libvirt.Guests = map[string]string{"ON_SHUTDOWN": "suspend"} }, "libvirt-guests", Failed, "ON_SHUTDOWN=suspend", ""},
		"guests lose power":          {func(f *Facts) { f.Service.EndsGuests = false }, "shutdown", Warning, "does not run: a shutdown of the host cuts the power", "systemctl start virtmesh-shutdown.service"},
		"guests lose power, by hand": {func(f *Facts) {
			f.Service.EndsGuests, f.Service.HasShutdownUnit, f.Service.Packaged = false, false, ""
		}, "shutdown", Warning, "there is no virtmesh-shutdown.service", "write /etc/systemd/system/virtmesh-shutdown.service; systemctl daemon-reload; systemctl add-wants virtmesh.service virtmesh-shutdown.service; systemctl start virtmesh-shutdown.service"},
		"guests lose power, packaged": {func(f *Facts) { f.Service.EndsGuests, f.Service.HasShutdownUnit = false, false }, "shutdown", Warning, "there is no virtmesh-shutdown.service", ""},
		"QEMU is root":                {func(f *Facts) { f.QEMU.Settings = map[string]string{"user": "root"} }, "QEMU's user", Failed, "root", ""},
		"QEMU is uid 0":               {func(f *Facts) { f.QEMU.Settings = map[string]string{"user": "+0"} }, "QEMU's user", Failed, "root", ""},
		"QEMU is another":             {func(f *Facts) { f.QEMU.Settings = map[string]string{"user": "qemu"} }, "QEMU's user", Failed, "as qemu, and the agent gives disks to libvirt-qemu", ""},
		"no seccomp":                  {func(f *Facts) { f.QEMU.Settings = map[string]string{"seccomp_sandbox": "0"} }, "seccomp", Warning, "switched off", ""},
		"no security driver": {func(f *Facts) {
			f.QEMU = QEMU{Settings: map[string]string{"security_driver": "none"}, AppArmor: true, LimitsMemory: true}
		}, "confinement", Failed, "security_driver is none", ""},
		"no limit of memory": {func(f *Facts) { f.QEMU.LimitsMemory = false }, "emulators' memory", Warning, "cannot limit", ""},
		"controllers left out": {func(f *Facts) {
			f.QEMU = QEMU{Settings: map[string]string{"cgroup_controllers": "[ ]"}, Models: []string{"selinux"}}
		}, "emulators' memory", Warning, "cgroup_controllers", ""},
		"AppArmor not used": {func(f *Facts) { f.QEMU.Models = []string{"dac"} }, "confinement", Failed, "libvirtd does not use it", ""},
		"AppArmor not wanted": {func(f *Facts) {
			f.QEMU.Models, f.Config.Hypervisor.WithoutAppArmor = []string{"dac"}, true
		}, "confinement", Warning, "hypervisor.withoutAppArmor", ""},
		"no AppArmor":              {func(f *Facts) { f.QEMU = QEMU{Models: []string{"dac"}, LimitsMemory: true} }, "confinement", Warning, "not switched on in the kernel", ""},
		"cloud kernel":             {func(f *Facts) { f.Modules["vxlan"] = false }, "kernel", Warning, "vxlan", ""},
		"little disk":              {func(f *Facts) { f.Filesystems[0].Free = 5 << 30 }, "disk", Warning, "5.0 GiB free in /var/lib, for state, images, pool local", ""},
		"no room for state":        {func(f *Facts) { f.Filesystems[0].Free = 1 << 30 }, "disk", Warning, "1.0 GiB", ""},
		"large cache":              {func(f *Facts) { f.Filesystems[0].Total = 15 << 30; f.Filesystems[0].Free = 12 << 30 }, "disk", Warning, "images.maxBytes is 20.0 GiB", ""},
		"dead disk":                {func(f *Facts) { f.Filesystems[0].Err = bounded.ErrSilent }, "disk", Failed, "does not answer", ""},
		"closed directory":         {func(f *Facts) { f.Paths[0].Closed = "/var/lib/virtmesh" }, "paths to disks", Failed, "closed to user libvirt-qemu", ""},
		"QEMU is given no disks":   {func(f *Facts) { f.QEMU.Settings = map[string]string{"dynamic_ownership": "0"} }, "QEMU's user", Failed, "dynamic_ownership = 0", ""},
		"an account among guests":  {func(f *Facts) { f.TakenUIDs = []UIDs{{1_900_000_000, 1_900_000_000, "/etc/passwd", "account eve"}} }, "guests' uids", Warning, "/etc/passwd has account eve", ""},
		"containers among guests":  {func(f *Facts) { f.TakenUIDs = []UIDs{{100_000, 2_000_000_000, "/etc/subuid", "uids"}} }, "guests' uids", Warning, "/etc/subuid has uids", ""},
		"no such user":             {func(f *Facts) { f.Paths[0].Err = errors.New("unknown user") }, "paths to disks", Failed, "unknown user", ""},
		"sick pool":                {func(f *Facts) { f.Pools[0].Err = errors.New("pool local: read-only") }, "pools", Warning, "read-only", ""},
		"no time service":          {func(f *Facts) { f.Clock = Clock{} }, "clock", Warning, "not synchronised", ""},
		"idle time service":        {func(f *Facts) { f.Clock = Clock{Available: "systemd-timesyncd"} }, "clock", Warning, "not synchronised", "systemctl enable --now systemd-timesyncd"},
		"time service that cannot": {func(f *Facts) { f.Clock = Clock{Service: "chrony"} }, "clock", Warning, "although chrony runs", ""},
		"ufw":                      {func(f *Facts) { f.Neighbours.UFW = "Status: active\n" }, "other firewalls", Warning, "ufw", ""},
		"firewalld":                {func(f *Facts) { f.Neighbours.FirewalldState = "running\n" }, "other firewalls", Warning, "firewalld", ""},
		"Docker":                   {func(f *Facts) { f.Neighbours.IPTables = "-P FORWARD DROP\n" }, "other firewalls", Warning, "Docker", ""},
		"Docker and br_netfilter": {func(f *Facts) {
			f.Neighbours.IPTables, f.Neighbours.BridgeFrames = "-P FORWARD DROP\n-A DOCKER-USER -i virtmesh0 -j ACCEPT\n", true
			f.Config.Network.Bridges = []host.BridgeConfig{{Name: "br1", Uplink: "eth1"}}
		}, "other firewalls", Warning, "br_netfilter", ""},
		"NetworkManager": {func(f *Facts) { f.Neighbours.NetworkManager = true }, "other firewalls", Warning, "NetworkManager",
			"write /etc/NetworkManager/conf.d/virtmesh.conf; systemctl reload NetworkManager"},
		"networkd": {func(f *Facts) {
			f.Neighbours.Networkd = true
			f.Neighbours.NetworkFiles = []NetworkFile{{"/etc/systemd/network/20-all.network", "[Match]\nName=*\n[Network]\nDHCP=yes\n"}}
		}, "systemd-networkd", Warning, "20-all.network applies to virtmesh0", "write /etc/systemd/network/00-virtmesh.network; networkctl reload"},
		"a VPN in guests' range": {func(f *Facts) {
			f.Routes = append(f.Routes, netplug.Route{Destination: netip.MustParsePrefix("10.65.3.0/24"), Device: "wg0"})
		},
			"guests' addresses", Warning, "this host has 10.65.3.0/24 on wg0, within 10.64.0.0/14", ""},
		"a company's range": {func(f *Facts) {
			f.Routes = append(f.Routes, netplug.Route{Destination: netip.MustParsePrefix("10.0.0.0/8"), Device: "eth0"})
		}, "guests' addresses", Warning, "10.0.0.0/8", ""},
		"dnsmasq": {func(f *Facts) { f.NameServers = []string{" by dnsmasq (pid 7)"} }, "port 53", Warning, "taken at every address by dnsmasq (pid 7)", ""},
		"port in use": {func(f *Facts) {
			f.Ports[0].Err, f.Ports[0].User = errors.New("address already in use"), " by nginx (pid 5)"
		}, "mesh port", Failed, "by nginx (pid 5)", ""},
		"no unit":               {func(f *Facts) { f.Service = Service{Systemd: true} }, "service", Warning, "nothing starts the agent", ""},
		"hidden unit":           {func(f *Facts) { f.Service.Taken, f.Service.Runs = "/etc/x", "/usr/local/bin/virtmesh" }, "service", Warning, "/etc/x hides the package's unit and runs /usr/local/bin/virtmesh", ""},
		"nobody answers guests": {func(f *Facts) { f.Service.GuestServices = "failed" }, "guest services", Warning, "is failed: guests get no answers", ""},
		"not started at boot":   {func(f *Facts) { f.Service.Enabled = false }, "service", Warning, "does not start at boot", "systemctl enable virtmesh.service"},
	} {
		t.Run(name, func(t *testing.T) {
			facts := healthy()
			test.change(&facts)
			spoke := false
			for _, f := range Examine(facts) {
				if f.Result == Passed {
					continue
				}
				if f.Check != test.check {
					t.Errorf("another check speaks too: %+v", f)
					continue
				}
				spoke = true
				if f.Result != test.result || !strings.Contains(f.Detail, test.detail) || f.Fix == "" {
					t.Errorf("got %+v, want %s with %q and a remedy", f, test.result, test.detail)
				}
				repair := ""
				if f.Repair != nil {
					repair = f.Repair.String()
				}
				if repair != test.repair {
					t.Errorf("--fix would %q, want %q", repair, test.repair)
				}
			}
			if !spoke {
				t.Errorf("%s says nothing", test.check)
			}
		})
	}
}

// TestNoFalseAlarms checks what looks like something in the way and is not.
func TestNoFalseAlarms(t *testing.T) {
	all := NetworkFile{"/etc/systemd/network/20-all.network", "[Match]\nName=*\n"}
	for name, change := range map[string]func(f *Facts){
		"ufw switched off":                     func(f *Facts) { f.Neighbours.UFW = "Status: inactive\n" },
		"ufw that knows":                       func(f *Facts) { f.Neighbours.UFW = "Status: active\nAnywhere on virtmesh0 ALLOW FWD Anywhere\n" },
		"firewalld, not running":               func(f *Facts) { f.Neighbours.FirewalldState = "not running\n" },
		"firewalld that knows":                 func(f *Facts) { f.Neighbours.FirewalldState, f.Neighbours.FirewalldZone = "running\n", "trusted\n" },
		"Docker that knows":                    func(f *Facts) { f.Neighbours.IPTables = "-P FORWARD DROP\n-A DOCKER-USER -i virtmesh0 -j ACCEPT\n" },
		"br_netfilter without second networks": func(f *Facts) { f.Neighbours.BridgeFrames = true },
		"NetworkManager that knows":            func(f *Facts) { f.Neighbours.NetworkManager, f.Neighbours.NetworkManagerLeavesUsAlone = true, true },
		"networkd with the package": func(f *Facts) {
			f.Neighbours.Networkd = true
			f.Neighbours.NetworkFiles = []NetworkFile{all, {"/usr/lib/systemd/network/00-virtmesh.network", "[Match]\nName=virtmesh0 vm-* vl-*\n\n[Link]\nUnmanaged=yes\n"}}
		},
		"networkd for one card": func(f *Facts) {
			f.Neighbours.Networkd = true
			f.Neighbours.NetworkFiles = []NetworkFile{{"/etc/systemd/network/e.network", "[Match]\nName=eth0 en*\n"}, {"/etc/systemd/network/m.network", "[Match]\nType=ether\nMACAddress=00:11:22:33:44:55\n"},
				{"/etc/systemd/network/w.network", "[Match]\nType=wlan\n"}, {"/etc/systemd/network/none.network", "[Network]\nDHCP=yes\n"}}
		},
		"files of networkd that does not run": func(f *Facts) { f.Neighbours.NetworkFiles = []NetworkFile{all} },
		"the agent's port":                    func(f *Facts) { f.Ports[0].Err, f.Ports[0].Ours = errors.New("address already in use"), true },
		"more workers":                        func(f *Facts) { f.Libvirt.Daemon = map[string]string{"max_workers": "50", "max_clients": "many"} },
		"SELinux":                             func(f *Facts) { f.QEMU = QEMU{Models: []string{"selinux", "dac"}, LimitsMemory: true} },
		"QEMU's user by name":                 func(f *Facts) { f.QEMU.Settings = map[string]string{"user": "libvirt-qemu"} },
		"accounts and containers": func(f *Facts) {
			f.TakenUIDs = []UIDs{{0, 0, "/etc/passwd", "account root"}, {100_000, 165_535, "/etc/subuid", "uids"}, {2_100_000_000, 2_200_000_000, "/etc/subuid", "uids"}}
		},
		"an agent that does not answer":   func(f *Facts) { f.Status = nil },
		"a unit edited in place":          func(f *Facts) { f.Service.Taken = "/etc/systemd/system/virtmesh.service" },
		"the agent starts guest services": func(f *Facts) { f.Service.GuestServices = "" },
		"no mesh yet":                     func(f *Facts) { f.Member, f.Service = false, Service{Systemd: true} },
	} {
		t.Run(name, func(t *testing.T) {
			facts := healthy()
			change(&facts)
			for _, f := range Examine(facts) {
				if f.Result != Passed {
					t.Errorf("a false alarm: %+v", f)
				}
			}
		})
	}
}

func TestRepair(t *testing.T) {
	dir := t.TempDir()
	mark, config := filepath.Join(dir, "mark"), filepath.Join(dir, "new", "x.conf")
	repair := Repair{Files: []File{{config, "[keyfile]\n"}}, Commands: [][]string{{"cp", config, mark}, {"false"}, {"rm", mark}}}
	err := repair.Apply(t.Context())
	if err == nil || !strings.Contains(err.Error(), "false") {
		t.Errorf("a command that fails: %v", err)
	}
	if text, err := os.ReadFile(mark); err != nil || string(text) != "[keyfile]\n" {
		t.Errorf("the steps before it, in order: %q, %v", text, err)
	}
	repair.Commands = repair.Commands[:1]
	if err := repair.Apply(t.Context()); err != nil {
		t.Errorf("again: %v", err)
	}
}
