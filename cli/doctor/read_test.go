package doctor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"virtmesh/agent"
	"virtmesh/agent/host"
	"virtmesh/storage/storagetest"
)

// programs makes a directory of shell scripts the only place where programs are found.
func programs(t *testing.T, scripts map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

// machine returns a reader of a machine that has these files.
func machine(t *testing.T, files map[string]string) reader {
	t.Helper()
	r := reader{root: t.TempDir()}
	for path, text := range files {
		path = filepath.Join(r.root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func TestReadLibvirt(t *testing.T) {
	for name, test := range map[string]struct {
		virsh        string // a script; "" if there is none
		version, err string
	}{
		"runs":           {"echo 'Compiled against library: libvirt 9.0.0'\necho 'Running against daemon: 9.0.0'\n", "9.0.0", ""},
		"an old client":  {"echo 'Compiled against library: libvirt 1.0.0'\n", "", ""},
		"does not run":   {"echo 'error: failed to connect to the hypervisor' >&2\necho 'error: more' >&2\nexit 1\n", "", "error: failed to connect to the hypervisor"},
		"not installed":  {"", "", "executable file not found"},
		"fails silently": {"exit 3\n", "", "exit status 3"},
	} {
		t.Run(name, func(t *testing.T) {
			scripts := map[string]string{}
			if test.virsh != "" {
				scripts["virsh"] = test.virsh
			}
			programs(t, scripts)
			l := machine(t, nil).libvirt(t.Context(), "qemu:///system")
			if l.Version != test.version || !strings.Contains(l.Err, test.err) || (l.Err == "") != (test.err == "") {
				t.Errorf("got %+v, want version %q and error %q", l, test.version, test.err)
			}
		})
	}
}

func TestReadSettings(t *testing.T) {
	r := machine(t, map[string]string{"/etc/libvirt/qemu.conf": `# user = "nobody"
user = "root"   # for a test
seccomp_sandbox=0
security_driver = [ "apparmor" ]
`})
	want := map[string]string{"user": "root", "seccomp_sandbox": "0", "security_driver": `[ "apparmor" ]`}
	if got := r.settings("/etc/libvirt/qemu.conf"); !reflect.DeepEqual(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
	if got := r.settings("/etc/libvirt/none.conf"); len(got) != 0 {
		t.Errorf("a file that does not exist has the settings %q", got)
	}
}

func TestReadQEMU(t *testing.T) {
	programs(t, map[string]string{"virsh": `echo '<capabilities><host><secmodel><model>apparmor</model><doi>0</doi></secmodel><secmodel><model>dac</model></secmodel></host></capabilities>'`})
	q := machine(t, map[string]string{"/sys/module/apparmor/parameters/enabled": "Y\n", "/sys/fs/cgroup/cgroup.controllers": "cpu memory\n"}).qemu(t.Context(), "qemu:///system")
	if !slices.Equal(q.Models, []string{"apparmor", "dac"}) || !q.AppArmor || !q.LimitsMemory {
		t.Errorf("read %+v", q)
	}
	programs(t, nil)
	if q := machine(t, nil).qemu(t.Context(), "qemu:///system"); len(q.Models) != 0 || q.AppArmor || q.LimitsMemory {
		t.Errorf("read %+v of a machine that has nothing", q)
	}
}

func TestReadModules(t *testing.T) {
	r := machine(t, map[string]string{"/sys/module/bridge/version": "", "/dev/net/tun": ""})
	// Neither modprobe nor the kernel's configuration knows a module that is not loaded.
	programs(t, map[string]string{"modprobe": "exit 1\n", "zgrep": "exit 1\n"})
	if r.kernelHas(t.Context(), "no_such_module") || !r.kernelHas(t.Context(), "bridge") || !r.kernelHas(t.Context(), "tun") {
		t.Error("a module that nobody knows is found, or a loaded one is not")
	}
	programs(t, map[string]string{"modprobe": "[ \"$3\" = no_such_module ]\n", "zgrep": "exit 1\n"})
	if !r.kernelHas(t.Context(), "no_such_module") {
		t.Error("a module that can be loaded is not found")
	}
	programs(t, map[string]string{"modprobe": "exit 1\n", "zgrep": "[ \"$2\" = '^CONFIG_no_such_module=[ym]' ]\n"})
	if !r.kernelHas(t.Context(), "no_such_module") {
		t.Error("a feature that is built in is not found")
	}
}

func TestReadNeighbours(t *testing.T) {
	programs(t, map[string]string{
		"ufw": "echo 'Status: inactive'\n", "firewall-cmd": "[ $1 = --state ] && echo running || echo trusted\n",
		"iptables": "echo '-P FORWARD DROP'\n", "nmcli": "echo running\n", "systemctl": "[ $2 = systemd-networkd.service ] && echo active\n",
	})
	r := machine(t, map[string]string{
		"/proc/sys/net/bridge/bridge-nf-call-iptables": "1\n",
		"/usr/lib/NetworkManager/conf.d/virtmesh.conf": "[keyfile]\nunmanaged-devices=interface-name:virtmesh0\n",
		"/etc/systemd/network/all.network":             "[Match]\nName=*\n",
		"/usr/lib/systemd/network/00-virtmesh.network": "[Match]\nName=virtmesh0\n",
		"/etc/NetworkManager/conf.d/unrelated.conf":    "[main]\n",
		"/usr/lib/systemd/network/99-default.link":     "[Match]\n",
	})
	got := r.neighbours(t.Context())
	want := Neighbours{
		UFW: "Status: inactive\n", FirewalldState: "running\n", FirewalldZone: "trusted\n", IPTables: "-P FORWARD DROP\n", BridgeFrames: true,
		NetworkManager: true, NetworkManagerLeavesUsAlone: true, Networkd: true,
		NetworkFiles: []NetworkFile{{"/etc/systemd/network/all.network", "[Match]\nName=*\n"}, {"/usr/lib/systemd/network/00-virtmesh.network", "[Match]\nName=virtmesh0\n"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read\n%+v, want\n%+v", got, want)
	}
}

func TestReadService(t *testing.T) {
	programs(t, map[string]string{"systemctl": "case $4 in LoadState) echo loaded ;; ActiveState) echo failed ;; *) echo enabled ;; esac\n"})
	unit := func(program string) string { return "[Service]\nExecStart=" + program + " agent run\n" }
	packaged := map[string]string{"/run/systemd/system/x": "", "/usr/lib/systemd/system/virtmesh.service": unit("/usr/bin/virtmesh")}
	const path = "/usr/lib/systemd/system/virtmesh.service"
	if got, want := machine(t, packaged).service(t.Context()), (Service{true, path, path, "/usr/bin/virtmesh", "/usr/bin/virtmesh", true, true, "failed", true, ""}); got != want {
		t.Errorf("the package's unit: %+v, want %+v", got, want)
	}
	packaged["/etc/systemd/system/virtmesh.service"] = unit("/usr/local/bin/virtmesh")
	if got := machine(t, packaged).service(t.Context()); got.Taken != "/etc/systemd/system/virtmesh.service" || got.Runs != "/usr/local/bin/virtmesh" || got.Packaged != path {
		t.Errorf("a unit that hides the package's: %+v", got)
	}
	programs(t, nil)
	if got := machine(t, nil).service(t.Context()); got != (Service{}) {
		t.Errorf("a machine without systemd: %+v", got)
	}
}

func TestReadPorts(t *testing.T) {
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	own := fmt.Sprintf("(pid %d)", os.Getpid())
	read := func(p Port) Port {
		p.read(t.Context())
		return p
	}
	if p := read(Port{Address: ":" + port}); p.Err == nil || p.Network != "tcp" || p.Ours || !strings.Contains(p.User, own) {
		t.Errorf("a port in use: %+v", p)
	}
	packets, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	_, port, _ = net.SplitHostPort(packets.LocalAddr().String())
	if p := read(Port{Address: ":" + port, Datagrams: true}); p.Err == nil || p.Network != "udp" || !strings.Contains(p.User, own) {
		t.Errorf("a port that another program takes datagrams at: %+v", p)
	}
	// Nobody else has this address, so no connection of another test has its port.
	if p := read(Port{Address: "127.0.0.77:" + port}); p.Err != nil {
		t.Errorf("a port that is only used for datagrams: %+v", p)
	}
	if user, _ := socketUser("udp", port, true); !strings.Contains(user, own) {
		t.Errorf("a socket at every address belongs to %q", user)
	}
	one, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	if _, port, _ = net.SplitHostPort(one.LocalAddr().String()); port != "" {
		if user, _ := socketUser("udp", port, true); user != "" {
			t.Errorf("a socket at one address counts as one at every address, of %s", user)
		}
	}
	for line, want := range map[string]bool{
		"/usr/local/bin/virtmesh agent run": true, "virtmesh --debug agent run --config x": true,
		"virtmesh doctor": false, "nginx agent run": false, "virtmesh agent": false,
	} {
		if isAgent(strings.Fields(line)) != want {
			t.Errorf("%q counts as an agent: %v", line, !want)
		}
	}
}

func TestReadFilesystems(t *testing.T) {
	config := agent.DefaultConfig()
	config.StateDir = filepath.Join(t.TempDir(), "not", "yet")
	config.Pools = []host.PoolConfig{{Name: "local", Path: config.StateDir + "/pools/local"}, {Name: "other", Path: "/proc/1"}}
	got := readFilesystems(config)
	if len(got) != 2 || !slices.Equal(got[0].Roles, []string{"state", "images", "instances", "pool local"}) || got[0].Free <= 0 || got[0].Free > got[0].Total {
		t.Errorf("read %+v, want the state's file system with four roles, and another", got)
	}
	if len(got) == 2 && (!slices.Equal(got[1].Roles, []string{"pool other"}) || got[1].Dir != "/proc/1") {
		t.Errorf("the pool elsewhere: %+v", got[1])
	}
}

func TestReadPools(t *testing.T) {
	config := agent.DefaultConfig()
	config.StateDir = t.TempDir()
	sick := filepath.Join(config.StateDir, "sick")
	if err := errors.Join(os.Mkdir(sick, 0o755), os.WriteFile(filepath.Join(sick, "pool.json"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	config.Pools = []host.PoolConfig{{Name: "fresh", Path: filepath.Join(config.StateDir, "fresh")}, {Name: "sick", Path: sick}}
	if pools := readPools(config); len(pools) != 2 || pools[0].Err != nil || pools[1].Err == nil {
		t.Errorf("a pool that is not made yet, and one that cannot be opened: %+v", pools)
	}
}

// TestSilentFileSystem checks that reading comes to its end although the file system of a
// pool, or of the state, does not answer, and that the finding of one check says so.
func TestSilentFileSystem(t *testing.T) {
	for _, test := range []struct {
		name, state, pool, check string
	}{
		{"a pool's", "state", "hangs", "pools"},
		{"the state's", "hangs", "pool", "disk"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			hangs := filepath.Join(dir, "hangs")
			if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil { // guests' users have to pass it
				t.Fatal(err)
			}
			if err := os.Mkdir(hangs, 0o755); err != nil {
				t.Fatal(err)
			}
			storagetest.Hang(t, hangs)
			facts := healthy()
			facts.Config.StateDir, facts.Config.Hypervisor.User = filepath.Join(dir, test.state), "root"
			facts.Config.Pools = []host.PoolConfig{{Name: "p", Path: filepath.Join(dir, test.pool)}}
			facts.readFiles()
			told := false
			for _, f := range Examine(facts) {
				if strings.Contains(f.Detail, "does not answer") {
					told = told || f.Check == test.check
				} else if f.Result != Passed && f.Check != "disk" { // a full disk of this machine
					t.Errorf("%+v", f)
				}
			}
			if !told {
				t.Errorf("%s does not say that the file system does not answer: %+v", test.check, facts)
			}
		})
	}
}

func TestReadTakenUIDs(t *testing.T) {
	r := machine(t, map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnonsense\neve:x:1900000001:100::/:/bin/sh\n",
		"/etc/subuid": "eve:100000:65536\nadam:x:1\n\nzero:5:0\n",
	})
	want := []UIDs{{0, 0, "/etc/passwd", "account root"}, {1_900_000_001, 1_900_000_001, "/etc/passwd", "account eve"},
		{100_000, 165_535, "/etc/subuid", "uids for the containers of eve"}}
	if got := r.takenUIDs(); !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, want %+v", got, want)
	}
	if got := machine(t, nil).takenUIDs(); len(got) != 0 {
		t.Errorf("read %+v of a machine that has nothing", got)
	}
}

// A guest's own user has the group of QEMU's user and no other.
func TestGuestsOwnAccount(t *testing.T) {
	got := account{uid: 64055, gids: []uint32{109, 64055}}.withUID(1_900_000_000)
	if want := (account{uid: 1_900_000_000, gids: []uint32{109}}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
