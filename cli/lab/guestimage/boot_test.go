package guestimage

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"virtmesh/storage/cloudinit"
)

// guest is a QEMU without KVM that boots an image, with its console and monitor.
type guest struct {
	t       *testing.T
	console io.Writer
	cmd     *exec.Cmd
	exited  chan struct{}
	monitor string

	mu   sync.Mutex
	cond *sync.Cond
	out  bytes.Buffer
	done bool
}

func boot(t *testing.T, disk string, args ...string) *guest {
	t.Helper()
	g := &guest{t: t, exited: make(chan struct{}), monitor: filepath.Join(t.TempDir(), "monitor")}
	g.cond = sync.NewCond(&g.mu)
	base := []string{"-accel", "tcg", "-M", "q35", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-monitor", "unix:" + g.monitor + ",server=on,wait=off",
		"-drive", "file=" + disk + ",if=virtio,snapshot=on"}
	g.cmd = exec.Command("qemu-system-x86_64", append(base, args...)...)
	g.cmd.Stderr = os.Stderr
	stdin, err := g.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	g.console = stdin
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go g.read(stdout)
	t.Cleanup(func() {
		g.cmd.Process.Kill()
		<-g.exited
		if t.Failed() {
			t.Logf("console:\n%s", g.text())
		}
	})
	return g
}

func (g *guest) read(r io.Reader) {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadBytes('\n')
		g.mu.Lock()
		g.out.Write(line)
		g.done = err != nil
		g.cond.Broadcast()
		g.mu.Unlock()
		if err != nil {
			break
		}
	}
	g.cmd.Wait()
	close(g.exited)
}

func (g *guest) text() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.out.String()
}

// expect waits until the console has shown want.
func (g *guest) expect(want string, within time.Duration) {
	g.t.Helper()
	timer := time.AfterFunc(within, func() {
		g.mu.Lock()
		g.done = true
		g.cond.Broadcast()
		g.mu.Unlock()
	})
	defer timer.Stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	for !strings.Contains(g.out.String(), want) {
		if g.done {
			g.t.Fatalf("the console did not show %q within %s", want, within)
		}
		g.cond.Wait()
	}
}

func (g *guest) send(line string) { fmt.Fprintf(g.console, "%s\n", line) }

func (g *guest) powerButton() {
	g.t.Helper()
	c, err := net.Dial("unix", g.monitor)
	if err != nil {
		g.t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "system_powerdown\n")
	// The connection stays open: the monitor drops commands it has not read when
	// its client leaves.
	g.waitExit()
}

// bootTime is for a machine that does much else; alone it takes seconds.
const bootTime = 10 * time.Minute

func (g *guest) waitExit() {
	g.t.Helper()
	select {
	case <-g.exited:
	case <-time.After(bootTime):
		g.t.Fatal("the guest did not power off")
	}
	st := g.cmd.ProcessState
	g.t.Logf("the guest took %s of CPU time", (st.UserTime() + st.SystemTime()).Round(10*time.Millisecond))
}

// imageDir is where built images are kept from one run of the tests to the next.
func imageDir(t *testing.T) string {
	if d := os.Getenv("VIRTMESH_GUEST_IMAGES"); d != "" {
		return d
	}
	return filepath.Join(os.TempDir(), "virtmesh-guest-images")
}

func needsMachine(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and boots an image")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, tool := range []string{"qemu-system-x86_64", "qemu-img", "apt-get", "mke2fs"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("needs %s, which make packages installs: %v", tool, err)
		}
	}
}

func TestTinyBoots(t *testing.T) {
	needsMachine(t)
	path, err := Build(context.Background(), "tiny", Options{Dir: imageDir(t), Progress: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > 20<<20 {
		t.Errorf("image has %d bytes, more than 20 MiB", st.Size())
	}
	start := time.Now()
	g := boot(t, path, "-m", "96", "-netdev", "user,id=n,hostname=fromdhcp", "-device", "virtio-net-pci,netdev=n")
	g.expect("virtmesh tiny guest ready: host tiny, boot 1", bootTime)
	t.Logf("ready after %s", time.Since(start).Round(10*time.Millisecond))
	g.expect("virtmesh tiny guest address: eth0 10.0.2.15/24", bootTime)
	t.Logf("address after %s", time.Since(start).Round(10*time.Millisecond))
	g.send("echo host=$(hostname); cat /etc/resolv.conf; ip route")
	g.expect("host=fromdhcp", bootTime)
	g.expect("nameserver 10.0.2.3", bootTime)
	g.expect("default via 10.0.2.2", bootTime)
	start = time.Now()
	g.powerButton()
	t.Logf("off %s after the power button", time.Since(start).Round(10*time.Millisecond))
}

func TestTinyReadsSeed(t *testing.T) {
	needsMachine(t)
	path, err := Build(context.Background(), "tiny", Options{Dir: imageDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	seed, err := cloudinit.NoCloud(cloudinit.Seed{InstanceID: "i-1", Hostname: "seeded",
		UserData: []byte("#!/bin/sh\necho script-on-$(hostname)-$(cat /run/instance-id)\n")})
	if err != nil {
		t.Fatal(err)
	}
	iso := filepath.Join(t.TempDir(), "seed.iso")
	if err := os.WriteFile(iso, seed, 0o644); err != nil {
		t.Fatal(err)
	}
	g := boot(t, path, "-m", "128", "-drive", "file="+iso+",if=virtio,format=raw,readonly=on",
		"-netdev", "user,id=n,hostname=fromdhcp", "-device", "virtio-net-pci,netdev=n")
	g.expect("virtmesh tiny guest ready: host seeded", bootTime)
	g.expect("script-on-seeded-i-1", bootTime)
	g.expect("user-data ended: 0", bootTime)
	g.expect("virtmesh tiny guest address: eth0", bootTime)
	g.send("echo still=$(hostname); poweroff")
	g.expect("still=seeded", bootTime)
	g.waitExit()
}
