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
	if _, err := os.Stat(agent.DefaultConfigPath); err == nil {
		t.Skip("this machine is a host, whose agent may have the ports")
	}
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	if f := checkPort("mesh port", port, false)(t.Context()); f.Result != failed || !strings.Contains(f.Detail, fmt.Sprint(port)) || f.Fix == "" {
		t.Errorf("a port in use: %+v", f)
	}
	packets, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	port = packets.LocalAddr().(*net.UDPAddr).Port
	if f := checkPort("gossip port", port, true)(t.Context()); f.Result != failed || f.Fix == "" {
		t.Errorf("a port that another program takes datagrams at: %+v", f)
	}
	if f := checkPort("mesh port", port, false)(t.Context()); f.Result != passed {
		t.Errorf("a port that is only used for datagrams: %+v", f)
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
	for check, want := range map[string]string{"qemu-system-x86_64": failed, "qemu-img": failed, "nft": failed, "libvirt": failed} {
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
