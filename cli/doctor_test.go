package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtmesh/agent"
	"virtmesh/agent/host"
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

func TestDoctorAsksLibvirt(t *testing.T) {
	for name, test := range map[string]struct {
		virsh  string // a script; "" if there is none
		result string
		detail string
	}{
		"runs":           {"echo 'Compiled against library: libvirt 9.0.0'\necho 'Running against daemon: 9.0.0'\n", passed, "9.0.0"},
		"an old client":  {"echo 'Compiled against library: libvirt 1.0.0'\n", passed, ""},
		"does not run":   {"echo 'error: failed to connect to the hypervisor' >&2\necho 'error: more' >&2\nexit 1\n", failed, "error: failed to connect to the hypervisor"},
		"not installed":  {"", failed, "executable file not found"},
		"fails silently": {"exit 3\n", failed, "exit status 3"},
	} {
		t.Run(name, func(t *testing.T) {
			scripts := map[string]string{}
			if test.virsh != "" {
				scripts["virsh"] = test.virsh
			}
			programs(t, scripts)
			f := checkLibvirt(t.Context())
			if f.Result != test.result || !strings.Contains(f.Detail, test.detail) || (f.Fix != "") != (f.Result == failed) {
				t.Errorf("got %+v, want %s with %q, and a remedy if it failed", f, test.result, test.detail)
			}
			if f.Result == failed && f.Detail == "" {
				t.Error("it does not say what is wrong")
			}
		})
	}
}

func TestDoctorLooksForPrograms(t *testing.T) {
	programs(t, map[string]string{"nft": ""})
	if f := checkProgram("nft", "nftables")(t.Context()); f.Result != passed || filepath.Base(f.Detail) != "nft" || f.Fix != "" {
		t.Errorf("a program that is there: %+v", f)
	}
	if f := checkProgram("qemu-img", "qemu-utils")(t.Context()); f.Result != failed || f.Fix != "apt-get install qemu-utils" {
		t.Errorf("a program that is missing: %+v", f)
	}
}

func TestDoctorLooksForKernelFeatures(t *testing.T) {
	// Neither modprobe nor the kernel's configuration knows a module that is not loaded.
	programs(t, map[string]string{"modprobe": "exit 1\n", "zgrep": "exit 1\n"})
	if kernelHas(t.Context(), "no_such_module") {
		t.Error("a module that nobody knows is found")
	}
	programs(t, map[string]string{"modprobe": "[ \"$3\" = no_such_module ]\n", "zgrep": "exit 1\n"})
	if !kernelHas(t.Context(), "no_such_module") {
		t.Error("a module that can be loaded is not found")
	}
	programs(t, map[string]string{"modprobe": "exit 1\n", "zgrep": "[ \"$2\" = '^CONFIG_no_such_module=[ym]' ]\n"})
	if !kernelHas(t.Context(), "no_such_module") {
		t.Error("a feature that is built in is not found")
	}
	if f := checkKernelFeatures(t.Context()); f.Result == failed || (f.Result == warning) != (f.Fix != "") {
		t.Errorf("missing features keep no host from joining, and have a remedy: %+v", f)
	}
}

func TestDoctorLooksForFreePorts(t *testing.T) {
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	own := fmt.Sprintf("(pid %d)", os.Getpid())
	if f := checkPort("mesh port", ":"+port, false)(t.Context()); f.Result != failed || !strings.Contains(f.Detail, port) || !strings.Contains(f.Detail, own) || f.Fix == "" {
		t.Errorf("a port in use: %+v", f)
	}
	packets, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	_, port, _ = net.SplitHostPort(packets.LocalAddr().String())
	if f := checkPort("gossip port", ":"+port, true)(t.Context()); f.Result != failed || !strings.Contains(f.Detail, own) || f.Fix == "" {
		t.Errorf("a port that another program takes datagrams at: %+v", f)
	}
	if f := checkPort("mesh port", ":"+port, false)(t.Context()); f.Result != passed {
		t.Errorf("a port that is only used for datagrams: %+v", f)
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

// TestDoctorReadsTheConfiguration: ports, disk and pools are those of agent.yaml.
func TestDoctorReadsTheConfiguration(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	state := t.TempDir()
	pool := filepath.Join(state, "pool")
	if err := os.Mkdir(pool, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(pool, "pool.json"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	path := writeFile(t, "agent.yaml", fmt.Sprintf("name: host1\nadvertise: 192.0.2.1\nstateDir: %s/not/yet\nmeshListen: %s\npools: [{name: sick, path: %s}]\n", state, listener.Addr(), pool))
	if f := portChecks(path)[0](t.Context()); f.Result != failed {
		t.Errorf("the configured port is in use: %+v", f)
	}
	if f := checkDisk(path)(t.Context()); !strings.HasSuffix(f.Detail, " in "+state) {
		t.Errorf("the disk of the configured state directory: %+v", f)
	}
	if f := checkPools(path)(t.Context()); f.Result != warning || !strings.Contains(f.Detail, "sick") {
		t.Errorf("a pool that cannot be opened: %+v", f)
	}
	path = writeFile(t, "well.yaml", fmt.Sprintf("name: host1\nadvertise: 192.0.2.1\nstateDir: %s/not/yet\n", state))
	if f := checkPools(path)(t.Context()); f.Result != passed {
		t.Errorf("a pool that is not made yet: %+v", f)
	}
	if config := agent.DefaultConfig(); len(config.Pools) == 0 || host.CheckPool(config.Pools[0], state) != nil {
		t.Error("the default pool of a machine that is not in a mesh cannot be used")
	}
}

func TestDoctorWarnsOfOtherFirewalls(t *testing.T) {
	for name, test := range map[string]struct {
		scripts map[string]string
		want    string // "" if nothing is in the way
	}{
		"none":                   {nil, ""},
		"ufw":                    {map[string]string{"ufw": "echo 'Status: active'\n"}, "ufw"},
		"ufw switched off":       {map[string]string{"ufw": "echo 'Status: inactive'\n"}, ""},
		"ufw that knows":         {map[string]string{"ufw": "echo 'Status: active'\necho 'Anywhere on virtmesh0 ALLOW FWD Anywhere'\n"}, ""},
		"firewalld":              {map[string]string{"firewall-cmd": "[ $1 = --state ] && echo running\n"}, "firewalld"},
		"firewalld that knows":   {map[string]string{"firewall-cmd": "[ $1 = --state ] && echo running || echo trusted\n"}, ""},
		"firewalld, not running": {map[string]string{"firewall-cmd": "echo 'not running'\nexit 252\n"}, ""},
		"Docker":                 {map[string]string{"iptables": "echo '-P FORWARD DROP'\n"}, "Docker"},
		"Docker that knows":      {map[string]string{"iptables": "echo '-P FORWARD DROP'\necho '-A DOCKER-USER -i virtmesh0 -j ACCEPT'\n"}, ""},
		"no Docker":              {map[string]string{"iptables": "echo '-P FORWARD ACCEPT'\n"}, ""},
		"NetworkManager":         {map[string]string{"nmcli": "echo running\n"}, "NetworkManager"},
	} {
		t.Run(name, func(t *testing.T) {
			programs(t, test.scripts)
			f := checkNeighbours(t.Context())
			if test.want == "" && f.Result != passed || test.want != "" && (f.Result != warning || !strings.Contains(f.Detail, test.want) || f.Fix == "") {
				t.Errorf("got %+v, want a warning of %q", f, test.want)
			}
		})
	}
	dir := t.TempDir()
	if leftAlone(dir) {
		t.Error("an empty configuration of NetworkManager names the bridge")
	}
	if err := os.WriteFile(filepath.Join(dir, "virtmesh.conf"), []byte("[keyfile]\nunmanaged-devices=interface-name:virtmesh0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !leftAlone(dir) {
		t.Error("NetworkManager is told to leave the bridge alone, and doctor does not see it")
	}
}

func TestDoctorPrintsEveryRemedy(t *testing.T) {
	programs(t, nil)
	code, stdout, stderr := run(t, "doctor", "-o", "json", "--config", filepath.Join(t.TempDir(), "none.yaml"))
	var findings []finding
	if err := json.Unmarshal([]byte(stdout), &findings); err != nil || code != 1 || stderr != "" {
		t.Fatalf("exit code %d, %v, stderr %q; want 1 and findings:\n%s", code, err, stderr, stdout)
	}
	results := map[string]string{}
	for _, f := range findings {
		if (f.Fix == "") != (f.Result == passed) {
			t.Errorf("%+v: want a remedy exactly if something is wrong", f)
		}
		results[f.Check] = f.Result
	}
	for check, want := range map[string]string{"qemu-system-x86_64": failed, "qemu-img": failed, "nft": failed, "libvirt": failed, "swtpm": warning, "swtpm_setup": warning, "ip": warning} {
		if results[check] != want {
			t.Errorf("%s is %q on a machine without programs, want %q", check, results[check], want)
		}
	}
	code, stdout, _ = run(t, "doctor", "--config", filepath.Join(t.TempDir(), "none.yaml"))
	if code != 1 || !strings.HasPrefix(stdout, "CHECK ") || !strings.Contains(stdout, "\nqemu-img: apt-get install qemu-utils\n") {
		t.Errorf("exit code %d:\n%s", code, stdout)
	}
}

func TestDoctorDoesNotTrustTheConfiguration(t *testing.T) {
	for name, text := range map[string]string{
		"damaged":      "{{{",
		"unknown user": "name: host1\nadvertise: 192.0.2.1\nhypervisor: {user: no-such-user}\n",
	} {
		path := writeFile(t, "agent.yaml", text)
		f := checkPaths(path)(context.Background())
		if f.Result != failed || f.Detail == "" || !strings.Contains(f.Fix, path) {
			t.Errorf("%s: %+v; want it failed, with the file's name in the remedy", name, f)
		}
	}
}
