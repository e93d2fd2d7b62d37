package confinement

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// The Node's condition is True only if nothing that keeps guests apart is missing, and
// names what is.
func TestConfinementIsTold(t *testing.T) {
	set := func(key, value string) func(*Host) {
		return func(h *Host) { h.Settings = map[string]string{key: value} }
	}
	for name, tc := range map[string]struct {
		change func(*Host)
		says   string
	}{
		"all":                  {func(*Host) {}, ""},
		"SELinux":              {func(h *Host) { h.Models = []string{"selinux", "dac"} }, ""},
		"no Landlock":          {func(h *Host) { h.Landlock = false }, ""},
		"no profiles":          {func(h *Host) { h.Models = []string{"dac"} }, "neither AppArmor nor SELinux"},
		"no users":             {func(h *Host) { h.Models = []string{"apparmor"} }, "no users of their own"},
		"no disks":             {set("dynamic_ownership", "0"), "no users of their own"},
		"no seccomp":           {set("seccomp_sandbox", "0"), "without seccomp"},
		"no sandbox":           {func(h *Host) { h.Sandbox = errors.New("setpriv: not found") }, "setpriv: not found"},
		"no memory controller": {func(h *Host) { h.MemoryController = false }, "cannot limit the memory"},
		"controllers":          {set("cgroup_controllers", `[ "cpu", "memory" ]`), ""},
		"no controllers":       {set("cgroup_controllers", "[ ]"), "cannot limit the memory"},
		"other controllers":    {set("cgroup_controllers", `[ "cpu", "cpuset" ]`), "cannot limit the memory"},
		"a list of some lines": {set("cgroup_controllers", "["), ""},
	} {
		h := Host{Models: []string{"apparmor", "dac"}, MemoryController: true, Landlock: true}
		tc.change(&h)
		got := h.Condition()
		want := corev1.ConditionTrue
		if tc.says != "" {
			want = corev1.ConditionFalse
		}
		if got.Status != want || !strings.Contains(got.Message, tc.says) {
			t.Errorf("%s: %s, %s", name, got.Status, got.Message)
		}
		if h.Landlock == strings.Contains(got.Message, "without Landlock") {
			t.Errorf("%s: %s", name, got.Message)
		}
	}
}

// A host whose kernel has AppArmor starts no guests without profiles, unless it may. A kernel
// without it is no reason.
func TestAppArmorIsRequired(t *testing.T) {
	for name, tc := range map[string]struct {
		host Host
		says string
	}{
		"used":              {Host{AppArmor: true, Models: []string{"apparmor", "dac"}}, ""},
		"SELinux is used":   {Host{AppArmor: true, Models: []string{"selinux", "dac"}}, ""},
		"not in the kernel": {Host{Models: []string{"dac"}}, ""},
		"not used":          {Host{AppArmor: true, Models: []string{"dac"}}, "hypervisor.withoutAppArmor"},
		"optional":          {Host{AppArmor: true, AppArmorOptional: true, Models: []string{"dac"}}, ""},
	} {
		err, told := tc.host.Refusal(), tc.host.Condition()
		if (err != nil) != (tc.says != "") || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
		if refused := told.Reason == "NoGuestStarts"; refused != (err != nil) || refused && !strings.Contains(told.Message, err.Error()) {
			t.Errorf("%s: the Node says %+v", name, told)
		}
	}
}

// The switch of AppArmor is the kernel's.
func TestReadAppArmor(t *testing.T) {
	for text, want := range map[string]bool{"Y\n": true, "N\n": false} {
		if got := Read(machine(t, map[string]string{"/sys/module/apparmor/parameters/enabled": text})).AppArmor; got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	if Read(t.TempDir()).AppArmor {
		t.Error("a kernel without AppArmor has it")
	}
}

// machine returns a root directory with files.
func machine(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// The controller for memory is found in both versions of cgroups, unless it is switched off.
func TestReadMemoryController(t *testing.T) {
	const names = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t2\t1\n"
	for name, tc := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"nothing":                   {nil, false},
		"version 2":                 {map[string]string{"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n", "/proc/cgroups": names + "memory\t0\t80\t1\n"}, true},
		"version 2, switched off":   {map[string]string{"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n", "/proc/cgroups": names + "memory\t0\t80\t0\n"}, false},
		"version 1":                 {map[string]string{"/proc/cgroups": names + "memory\t4\t80\t1\n"}, true},
		"version 1, not mounted":    {map[string]string{"/proc/cgroups": names + "memory\t0\t1\t1\n"}, false},
		"version 1, switched off":   {map[string]string{"/proc/cgroups": names + "memory\t4\t1\t0\n"}, false},
		"only another is mentioned": {map[string]string{"/sys/fs/cgroup/cgroup.controllers": "memory_recursiveprot\n"}, false},
	} {
		if got := Read(machine(t, tc.files)).MemoryController; got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// What an administrator mends is found the next time; what is read of libvirtd's files, once
// libvirtd has read it too.
func TestFinderLooksAgain(t *testing.T) {
	root := machine(t, map[string]string{"/etc/libvirt/qemu.conf": "seccomp_sandbox = 0\n", "/sys/fs/cgroup/cgroup.controllers": "memory"})
	missing := errors.New("setpriv: not found")
	finder := Finder{Root: root, TrySandbox: func(context.Context) error { return missing }}
	lacks := func(models ...string) int { return len(finder.Find(t.Context(), models).Faults()) }
	if got := lacks("dac"); got != 3 {
		t.Errorf("it lacks %d things, want profiles, seccomp and the sandbox", got)
	}
	missing = nil
	if err := os.WriteFile(filepath.Join(root, "/etc/libvirt/qemu.conf"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := lacks("apparmor", "dac"); got != 1 {
		t.Errorf("it lacks %d things before libvirtd was restarted, want seccomp", got)
	}
	finder.Forget()
	if got := lacks("apparmor", "dac"); got != 0 {
		t.Errorf("it lacks %d things", got)
	}
}
