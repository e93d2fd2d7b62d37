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
// Users other than root skip the test.
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
	// It ends with its input, so it does not outlive a test that is killed.
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

// Do calls the function on a thread in the namespace. Sockets and files that it opens stay
// in the namespace and can be used anywhere.
func (h *Host) Do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		// The thread ends with the goroutine, since it stays locked: it must not go on
		// in the wrong namespace.
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

// Serve answers every TCP connection to the address with the text, until the end of the
// test.
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
	serve(h.t, ln, text)
}

// Serve does the same in the test's own namespace.
func Serve(t testing.TB, addr, text string) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, ln, text)
}

func serve(t testing.TB, ln net.Listener, text string) {
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

// Get connects to the address over TCP and returns what it is told.
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
