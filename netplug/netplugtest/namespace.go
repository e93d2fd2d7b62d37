package netplugtest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inNamespace is set in the environment of a test that runs in its own namespace.
const inNamespace = "VIRTMESH_TEST_NETNS"

// OwnNamespace runs the calling test in a network namespace of its own, where the test may
// change anything. In the outer process it runs the test again in a child process in the
// new namespace, reports the result and returns false. In the child it returns true. The
// whole child process is in the namespace, so no goroutine can run in another one.
//
//	func TestX(t *testing.T) {
//		if !netplugtest.OwnNamespace(t) {
//			return
//		}
//		...
//	}
//
// It skips the test unless it runs as root.
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
	for _, program := range []string{"ip", "nft", "nsenter", "ping", "busybox"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("needs %s, which make packages installs: %v", program, err)
		}
	}
	// #nosec: the test binary itself.
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), inNamespace+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil && bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("in its namespace:\n%s", out)
	case err == nil:
		t.Logf("in its namespace:\n%s", out)
	case cmd.ProcessState == nil:
		t.Fatalf("make a network namespace: %v", err)
	default:
		t.Errorf("in its namespace: %v\n%s", err, out)
	}
	return false
}

// mountSys mounts /sys so that it shows the links of this namespace, for this process only.
func mountSys() error {
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	return nil
}

// Run runs a command and returns its output. It fails the test if the command fails.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Host is a network namespace besides the test's own, such as a guest or an outside host.
type Host struct {
	t   testing.TB
	cmd *exec.Cmd
}

// NewHost makes a network namespace that lasts until the end of the test.
func NewHost(t testing.TB) *Host {
	t.Helper()
	// cat ends when its input is closed, so it does not outlive a killed test.
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	input, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() {
		_ = input.Close()
		_ = cmd.Wait()
	})
	h := &Host{t: t, cmd: cmd}
	h.Run("ip", "link", "set", "lo", "up")
	return h
}

// PID returns the ID of a process in the namespace, by which ip(8) finds the namespace.
func (h *Host) PID() string { return fmt.Sprint(h.cmd.Process.Pid) }

// Command returns a command that runs in the namespace.
func (h *Host) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", h.PID(), "-n", "--", name}, args...)...)
}

// Run runs a command in the namespace and returns its output. It fails the test if the
// command fails.
func (h *Host) Run(name string, args ...string) string {
	h.t.Helper()
	out, err := h.Command(name, args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Try runs a command in the namespace and returns its output and error.
func (h *Host) Try(name string, args ...string) (string, error) {
	out, err := h.Command(name, args...).CombinedOutput()
	return string(out), err
}

// Do calls f on a thread in the namespace. Sockets and files that f opens belong to the
// namespace, and any goroutine can use them.
func (h *Host) Do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		// The goroutine never unlocks the thread, so the thread ends with it. The thread
		// must not run other goroutines in the wrong namespace.
		runtime.LockOSThread()
		ns, err := unix.Open("/proc/"+h.PID()+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- err
			return
		}
		defer unix.Close(ns)
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

// Serve listens on addr in the namespace and sends text on every TCP connection, until the
// end of the test.
func (h *Host) Serve(addr, text string) {
	h.t.Helper()
	var ln net.Listener
	err := h.Do(func() (err error) {
		ln, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	serveText(h.t, ln, text)
}

// Serve is Host.Serve in the test's own namespace.
func Serve(t testing.TB, addr, text string) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	serveText(t, ln, text)
}

func serveText(t testing.TB, ln net.Listener, text string) {
	var wg sync.WaitGroup
	wg.Go(func() { answerAll(ln, text) })
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
}

func answerAll(ln net.Listener, text string) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, text)
		_ = conn.Close()
	}
}

// Get connects to the address over TCP and returns everything that it receives.
func (h *Host) Get(addr string, timeout time.Duration) (string, error) {
	var conn net.Conn
	err := h.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", addr, timeout)
		return err
	})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	b, err := io.ReadAll(conn)
	return string(b), err
}
