package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"virtmesh/cli/lab/guestimage"
)

// A shell in the host sees the words that were typed, and no others.
func TestCommandsReachAMachineWordByWord(t *testing.T) {
	l := machines{testLab(t)}
	h := l.Hosts()[0]
	if err := l.writePort(h, 2222); err == nil {
		t.Fatal("the port of a host without a directory is noted")
	}
	if err := os.MkdirAll(l.hostDir(h), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := l.writePort(h, 2222); err != nil {
		t.Fatal(err)
	}
	words := []string{"a b", "", "'", `"$HOME"`, "*", "a\nb", "--", "-x", "plain"}
	cmd := l.command(t.Context(), h, 1, append([]string{"printf", `%s\0`}, words...))
	if i := slices.Index(cmd.Args, "-p"); i < 0 || cmd.Args[i+1] != "2222" {
		t.Errorf("the port is not the host's: %q", cmd.Args)
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", cmd.Args[len(cmd.Args)-1]).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !slices.Equal(got, words) {
		t.Errorf("the host's shell saw %q, want %q", got, words)
	}
}

// The image knows no lab: all that a host is comes with its command line, and the disks
// and cards of two hosts are their own.
func TestMachinesDifferByTheirArguments(t *testing.T) {
	l := machines{testLab(t)}
	image := guestimage.Host{Kernel: "/k", Initrd: "/i", Disk: "/d"}
	lines := map[string]string{}
	for _, h := range l.Hosts() {
		args := l.machine(h, image, "AAAAkey", 2200+h.Index)
		lines[h.Name] = strings.Join(args, " ")
		for _, want := range []string{
			"systemd.hostname=" + h.Name, "lab.address=" + h.Address, "lab.gateway=10.201.7.1", "lab.registry=5000", "lab.key=AAAAkey",
			"ifname=vml-ab12-", "ifname=vmg-ab12-", filepath.Join(l.hostDir(h), "root.qcow2"), "hostfwd=tcp:127.0.0.1:220",
		} {
			if !strings.Contains(lines[h.Name], want) {
				t.Errorf("%s lacks %q: %s", h.Name, want, lines[h.Name])
			}
		}
	}
	first, second := strings.Fields(lines["host1"]), strings.Fields(lines["host2"])
	for _, word := range first {
		if strings.Contains(word, "mac=") || strings.Contains(word, "file=") || strings.Contains(word, "ifname=") || strings.Contains(word, "hostfwd=") {
			if slices.Contains(second, word) {
				t.Errorf("both hosts have %s", word)
			}
		}
	}
	if got := comma("/a,b"); got != "/a,,b" {
		t.Errorf("a path with a comma is %q", got)
	}
}

func TestALabHasHostsOfOneSort(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	l := testLab(t)
	err := l.Up(t.Context(), Wanted{Hosts: 2, Metal: true}, func(string, ...any) {})
	if err == nil || !strings.Contains(err.Error(), "the other sort") {
		t.Errorf("machines in a lab of namespaces: %v", err)
	}
}

// A later program does not start an old disk with a kernel that has no modules there.
func TestAMachineKeepsItsKernel(t *testing.T) {
	l := machines{testLab(t)}
	h := l.Hosts()[0]
	if err := os.MkdirAll(l.hostDir(h), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(l.hostDir(h), "image.json"), []byte(`{"Kernel":"/old/k","Initrd":"/old/i","Disk":"/old/d"}`))
	image, err := l.image(t.Context(), h, t.Logf)
	if want := (guestimage.Host{Kernel: "/old/k", Initrd: "/old/i", Disk: "/old/d"}); err != nil || image != want {
		t.Errorf("got %+v, %v; want %+v", image, err, want)
	}
	write(t, filepath.Join(l.hostDir(h), "image.json"), []byte("{"))
	if _, err := l.image(t.Context(), h, t.Logf); err == nil || !strings.Contains(err.Error(), "host1") {
		t.Errorf("a damaged record: %v", err)
	}
}
