package lab

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestRepository(t *testing.T) {
	for file, want := range map[string]string{
		"debian-12.qcow2":           "debian-12",
		"Fedora Cloud_Base.x86.IMG": "fedora-cloud-base-x86",
		"disk":                      "disk",
		"-disk-.raw":                "disk",
		"äöü.img":                   "image",
		".qcow2":                    "image",
		"/":                         "image",
		"":                          "image",
	} {
		if got := repository(file); got != want {
			t.Errorf("repository(%q) = %q, want %q", file, got, want)
		}
	}
}

func TestLabID(t *testing.T) {
	if again := labID("/a"); labID("/a") != again || again == labID("/b") {
		t.Error("a lab's ID must follow from its directory and differ between directories")
	}
	l := &Lab{state: state{ID: labID("/a")}}
	for _, c := range l.cables(Host{Index: maxHosts}) {
		// IFNAMSIZ, with the byte that ends the name.
		if len(c.outside) > 15 || len(c.bridge) > 15 {
			t.Errorf("interface names %q and %q are too long for the kernel", c.outside, c.bridge)
		}
	}
}

// testLab is a lab of two hosts that nobody started.
func testLab(t *testing.T) *Lab {
	t.Helper()
	l, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l.state = state{ID: "ab12", Network: 7, RegistryPort: 5000, Hosts: []Host{
		{Name: "host1", Index: 1, Address: "10.201.7.11"}, {Name: "host2", Index: 2, Address: "10.201.7.12"},
	}}
	if err := l.saveState(); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestStateComesBack(t *testing.T) {
	l := testLab(t)
	again, err := Open(l.dir)
	if err != nil {
		t.Fatal(err)
	}
	if !again.Exists() || !reflect.DeepEqual(again.state, l.state) {
		t.Errorf("got %+v, want %+v", again.state, l.state)
	}
	if again.gateway() != "10.201.7.1" || again.Registry() != "127.0.0.1:5000" {
		t.Errorf("got gateway %s and registry %s", again.gateway(), again.Registry())
	}
	if left, _ := filepath.Glob(filepath.Join(l.dir, ".*")); len(left) > 0 {
		t.Errorf("saving left %q behind", left)
	}
	hosts := again.Hosts()
	hosts[0].Name = "changed"
	if again.Hosts()[0].Name != "host1" {
		t.Error("callers can change the lab's own list of hosts")
	}
}

func TestOpenTellsADamagedStateFromNone(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(dir)
	if err != nil || l.Exists() {
		t.Fatalf("an empty directory: exists %t, %v", l.Exists(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lab.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "lab.json") {
		t.Errorf("a damaged state: %v", err)
	}
}

func TestHostLookup(t *testing.T) {
	l := testLab(t)
	for name, want := range map[string]string{"": "host1", "host1": "host1", "host2": "host2"} {
		if h, err := l.Host(name); err != nil || h.Name != want {
			t.Errorf("host %q is %q, %v; want %q", name, h.Name, err, want)
		}
	}
	if _, err := l.Host("host9"); err == nil || !strings.Contains(err.Error(), `no host "host9"`) {
		t.Errorf("an unknown host: %v", err)
	}
	none, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := none.Host("host1"); !errors.Is(err, ErrNoLab) {
		t.Errorf("a host of no lab: %v", err)
	}
	if _, err := none.Image(t.Context(), "tiny", func(string, ...any) {}); !errors.Is(err, ErrNoLab) {
		t.Errorf("an image for no lab: %v", err)
	}
}

func TestCommandInAHostThatIsOff(t *testing.T) {
	l := testLab(t)
	if _, err := l.Command(t.Context(), l.Hosts()[0], "true"); err == nil || !strings.Contains(err.Error(), "lab start host1") {
		t.Errorf("got %v, want advice to power it on", err)
	}
}

func TestUpRefusesImpossibleSizes(t *testing.T) {
	l := testLab(t)
	for _, n := range []int{0, -1, maxHosts + 1} {
		if err := l.Up(t.Context(), Wanted{Hosts: n}, func(string, ...any) {}); err == nil {
			t.Errorf("a lab of %d hosts is accepted", n)
		}
	}
}

func TestOneChangeAtATime(t *testing.T) {
	l := testLab(t)
	unlock, err := l.lockLab()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.lockLab(); err == nil || !strings.Contains(err.Error(), l.dir) {
		t.Errorf("a second change: %v", err)
	}
	unlock()
	unlock, err = l.lockLab()
	if err != nil {
		t.Fatalf("after the first change: %v", err)
	}
	unlock()
}

func TestRunningProcess(t *testing.T) {
	record := filepath.Join(t.TempDir(), "init.json")
	if pid, err := runningProcess(record); pid != 0 || err != nil {
		t.Errorf("no record: %d, %v", pid, err)
	}
	self := os.Getpid()
	if err := recordProcess(record, self); err != nil {
		t.Fatal(err)
	}
	if pid, err := runningProcess(record); pid != self || err != nil {
		t.Errorf("this process: %d, %v; want %d", pid, err, self)
	}

	// The same number with another start time is another process.
	data, err := json.Marshal(process{PID: self, StartTime: "1"})
	if err != nil {
		t.Fatal(err)
	}
	write(t, record, data)
	if pid, err := runningProcess(record); pid != 0 || err != nil {
		t.Errorf("a reused PID: %d, %v", pid, err)
	}
	if err := killProcess(record); err != nil {
		t.Errorf("killing what a reused PID names: %v", err)
	}
	write(t, record, []byte("{"))
	if _, err := runningProcess(record); err == nil || !strings.Contains(err.Error(), record) {
		t.Errorf("a damaged record: %v", err)
	}
	if err := recordProcess(record, 1<<30); err == nil {
		t.Error("a process that does not exist is recorded")
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestKillProcess(t *testing.T) {
	record := filepath.Join(t.TempDir(), "init.json")
	child := exec.Command("sleep", "300")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		child.Process.Kill()
		child.Wait()
	}()
	if err := recordProcess(record, child.Process.Pid); err != nil {
		t.Fatal(err)
	}
	// A child that nobody waits for stays a zombie, which counts as ended.
	if err := killProcess(record); err != nil {
		t.Fatal(err)
	}
	if pid, err := runningProcess(record); pid != 0 || err != nil {
		t.Errorf("after the kill: %d, %v", pid, err)
	}
	if _, err := os.Stat(record); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record is still there: %v", err)
	}
}

// docs/lab.md lets users run 'virtmesh' in a host of a lab that they started as bin/virtmesh.
func TestHostsFindTheProgramOfTheLab(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "virtmesh")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"found with $KUBECONFIG\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, user := range [][]string{{"PATH=/usr/bin:/bin", "KUBECONFIG=/old"}, {"HOME=/root"}} {
		cmd := exec.Command("/usr/bin/env", "virtmesh") // it looks for the program as nsenter does
		cmd.Env = hostEnvironment(user, program)
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "found with \n" {
			t.Errorf("with %q: %q, %v", user, out, err)
		}
	}
}
