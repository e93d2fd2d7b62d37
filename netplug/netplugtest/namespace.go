package netplugtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// inNamespace is set in the environment of a test that runs in its own namespace.
const inNamespace = "VIRTMESH_TEST_NETNS"

// OwnNamespace runs the calling test in a network namespace of its own, where it may do
// as it likes: in the outer process it runs the test once more as a child there, reports
// how it went and returns false; in the child it returns true. The whole child process is
// in the namespace, so no goroutine can find itself in another one.
//
//	func TestX(t *testing.T) {
//		if !netplugtest.OwnNamespace(t) {
//			return
//		}
//		...
//	}
//
// Without the privileges for it the test is skipped.
func OwnNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) == t.Name() {
		if err := mountSys(); err != nil {
			t.Fatal(err)
		}
		Run(t, "ip", "link", "set", "lo", "up")
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	// #nosec: the test binary itself.
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), inNamespace+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil && bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("in its namespace:\n%s", out)
	case err == nil:
		t.Logf("in its namespace:\n%s", out)
	case cmd.ProcessState == nil:
		t.Skipf("needs the right to make network namespaces: %v", err)
	default:
		t.Errorf("in its namespace: %v\n%s", err, out)
	}
	return false
}

// mountSys shows the links of this namespace in /sys, for this process only.
func mountSys() error {
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	return nil
}

// Run runs a command and returns what it printed; the test fails if the command does.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Host is another network namespace beside the test's own, such as a guest or the world
// outside.
type Host struct {
	t   testing.TB
	cmd *exec.Cmd
}

// NewHost makes a network namespace that lasts until the end of the test.
func NewHost(t testing.TB) *Host {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	h := &Host{t: t, cmd: cmd}
	h.Run("ip", "link", "set", "lo", "up")
	return h
}

// PID is that of a process in the namespace, which names it to ip(8).
func (h *Host) PID() string { return fmt.Sprint(h.cmd.Process.Pid) }

// Command returns a command that runs in the namespace.
func (h *Host) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", h.PID(), "-n", "--", name}, args...)...)
}

// Run runs a command in the namespace; the test fails if the command does.
func (h *Host) Run(name string, args ...string) string {
	h.t.Helper()
	out, err := h.Command(name, args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Try runs a command in the namespace and says how it went.
func (h *Host) Try(name string, args ...string) (string, error) {
	out, err := h.Command(name, args...).CombinedOutput()
	return string(out), err
}
