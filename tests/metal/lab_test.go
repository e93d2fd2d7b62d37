//go:build metal

package metal

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	// binary is the program on this machine, which commands the lab and the hosts.
	binary string
	// labDir is the lab of this run.
	labDir string
	// debian is the package under test; empty if there is none and hosts have the program.
	debian string
	// tiny is the reference of the small guest image.
	tiny string
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(runInLab(m))
}

func runInLab(m *testing.M) int {
	ctx := context.Background()
	if err := findProgram(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	hosts := 2
	if testing.Short() {
		hosts = 1
	}
	// With VIRTMESH_METAL_KEEP a lab that runs is used and left running, to work on one test.
	if os.Getenv("VIRTMESH_METAL_KEEP") == "" {
		if _, err := lab(ctx, "down"); err != nil { // of a run that was interrupted
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer lab(ctx, "down")
	}
	if err := startLab(ctx, "--hosts", fmt.Sprint(hosts)); err != nil {
		fmt.Fprintf(os.Stderr, "start the lab: %v\n", err)
		printLogs(ctx)
		return 1
	}
	code := m.Run()
	if code != 0 {
		printLogs(ctx)
	}
	return code
}

// startLab starts hosts, unless they run, and puts the guest image into the lab's registry.
func startLab(ctx context.Context, hosts ...string) error {
	args := append([]string{"up", "--metal"}, hosts...)
	if debian != "" {
		args = append(args, "--package", debian)
	}
	began := time.Now()
	if _, err := lab(ctx, args...); err != nil {
		return err
	}
	fmt.Printf("%s: Ready with %s after %s\n", strings.Join(hosts, " "), installed(), time.Since(began).Round(time.Second))
	out, err := lab(ctx, "image", "tiny")
	tiny = strings.TrimSpace(out)
	return err
}

// findProgram finds what is tested: the package that VIRTMESH_PACKAGE names, or the newest
// one in dist, or without one the program alone.
func findProgram() (err error) {
	if binary, err = filepath.Abs("../../bin/virtmesh"); err != nil {
		return err
	}
	if labDir = os.Getenv("VIRTMESH_METAL_DIR"); labDir == "" {
		labDir = "/var/lib/virtmesh-metal"
	}
	if debian = os.Getenv("VIRTMESH_PACKAGE"); debian != "" {
		return nil
	}
	packages, err := filepath.Glob("../../dist/virtmesh_*.deb")
	if err != nil {
		return err
	}
	var newest time.Time
	for _, path := range packages {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.ModTime().After(newest) {
			newest = info.ModTime()
			if debian, err = filepath.Abs(path); err != nil {
				return err
			}
		}
	}
	return nil
}

func installed() string {
	if debian == "" {
		return "the program and no package"
	}
	return filepath.Base(debian)
}

// printLogs shows what the hosts said, so that a failure in CI can be understood from its
// output.
func printLogs(ctx context.Context) {
	logs, _ := filepath.Glob(filepath.Join(labDir, "hosts", "*", "log", "*.log"))
	for _, path := range logs {
		data, err := os.ReadFile(path)
		if err == nil {
			fmt.Printf("=== %s\n%s\n", path, data)
		}
	}
	hosts, _ := filepath.Glob(filepath.Join(labDir, "hosts", "*"))
	for _, dir := range hosts {
		host := filepath.Base(dir)
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		out, err := lab(ctx, "exec", host, "--", "sh", "-c",
			"journalctl -b -q --no-pager -u virtmesh | tail -n 60; journalctl -b -q --no-pager -p warning | tail -n 60; systemctl --failed; df -h /; free -m")
		cancel()
		fmt.Printf("=== %s (%v)\n%s\n", host, err, out)
	}
}

// lab runs a lab command and returns its standard output.
func lab(ctx context.Context, args ...string) (string, error) {
	return program(ctx, nil, append([]string{"lab", "--dir", labDir}, args...)...)
}

func program(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, binary, args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = stdin, &stderr
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("virtmesh %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// commandTimeout bounds a command in a host: a host that hangs must not hang the test.
const commandTimeout = 8 * time.Minute

// try runs a shell script in a host.
func try(ctx context.Context, host, script string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	out, err := lab(ctx, "exec", host, "--", "sh", "-c", script)
	return strings.TrimSpace(out), err
}

// inside is try for scripts that must succeed.
func inside(t *testing.T, host, script string) string {
	t.Helper()
	out, err := try(t.Context(), host, script)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// undo runs a shell script in a host when the test has ended.
func undo(t *testing.T, host, script string) {
	t.Helper()
	t.Cleanup(func() {
		// The test's own context has ended by now.
		if _, err := try(context.Background(), host, script); err != nil {
			t.Errorf("undo what the test did: %v", err)
		}
	})
}

// virtmesh runs a user's command on this machine against a host.
func virtmesh(ctx context.Context, host, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	kubeconfig := filepath.Join(labDir, "hosts", host, "kubeconfig")
	return program(ctx, strings.NewReader(stdin), append([]string{"--kubeconfig", kubeconfig}, args...)...)
}

// isOff is what the lab says of a host that has ended.
const isOff = "powers it on"

// eventually polls until try succeeds, and fails the test with its last error. It gives up at
// once when the host has ended: no test waits for one that it did not start.
func eventually(t *testing.T, timeout time.Duration, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	began, last := time.Now(), errors.New("not tried")
	for ctx.Err() == nil {
		err := try(ctx)
		if err == nil {
			t.Logf("%s after %s", what, time.Since(began).Round(time.Second))
			return
		}
		if ctx.Err() == nil {
			last = err
		}
		if strings.Contains(err.Error(), isOff) {
			t.Fatalf("%s cannot happen any more: %v", what, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	t.Fatalf("%s did not happen within %s: %v", what, timeout, last)
}
