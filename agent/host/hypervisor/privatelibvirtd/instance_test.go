package privatelibvirtd

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const testUUID = "6f1c1d9e-37b7-4d5b-9d0e-8b6e2a3c4d01"

// startTest runs a private libvirt for the test, in a directory short enough for
// its sockets.
func startTest(t *testing.T, uuid, cacheDir string) (*Instance, Config) {
	t.Helper()
	c := DefaultConfig()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes mounts and runs libvirtd")
	}
	if _, err := os.Stat(c.Libvirtd); err != nil {
		t.Fatalf("needs libvirt, which make packages installs: %v", err)
	}
	dir, err := os.MkdirTemp("", "plv")
	if err != nil {
		t.Fatal(err)
	}
	c.Dir, c.HostUUID, c.CacheDir, c.Isolate = dir, uuid, cacheDir, true
	in, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := in.Stop(ctx); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return in, c
}

func virsh(t *testing.T, in *Instance, args ...string) string {
	t.Helper()
	out, err := exec.Command("virsh", append([]string{"-c", in.URI}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestTwoInstancesShareNothing(t *testing.T) {
	t.Parallel()
	const otherUUID = "6f1c1d9e-37b7-4d5b-9d0e-8b6e2a3c4d02"
	cache := t.TempDir()
	a, _ := startTest(t, testUUID, cache)
	b, _ := startTest(t, otherUUID, cache)
	if caps := virsh(t, a, "capabilities"); !strings.Contains(caps, "<uuid>"+testUUID) {
		t.Errorf("the first libvirt does not carry its uuid:\n%s", caps)
	}
	if caps := virsh(t, b, "capabilities"); !strings.Contains(caps, "<uuid>"+otherUUID) {
		t.Errorf("the second libvirt does not carry its uuid:\n%s", caps)
	}
	xml := filepath.Join(t.TempDir(), "d.xml")
	const domain = `<domain type='qemu'><name>only-in-a</name><memory unit='MiB'>64</memory><os><type arch='x86_64' machine='q35'>hvm</type></os></domain>`
	if err := os.WriteFile(xml, []byte(domain), 0o600); err != nil {
		t.Fatal(err)
	}
	virsh(t, a, "define", xml)
	if out := virsh(t, b, "list", "--all", "--name"); strings.Contains(out, "only-in-a") {
		t.Error("a domain defined in one libvirt shows in the other")
	}
}

func TestStartFindsRunningDaemonsAndState(t *testing.T) {
	t.Parallel()
	in, c := startTest(t, testUUID, "")
	virtlogd, libvirtd := daemons(c)
	logPid, pid := virtlogd.pid(), libvirtd.pid()
	if logPid == 0 || pid == 0 {
		t.Fatalf("daemons not found running: virtlogd %d, libvirtd %d", logPid, pid)
	}
	if _, err := Start(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if libvirtd.pid() != pid {
		t.Error("a second Start replaced a running libvirtd")
	}
	if err := in.KillLibvirtd(t.Context()); err != nil {
		t.Fatal(err)
	}
	if libvirtd.pid() != 0 {
		t.Error("libvirtd runs after KillLibvirtd")
	}
	again, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	virsh(t, again, "list", "--all")
	if virtlogd.pid() != logPid {
		t.Error("restarting libvirtd replaced virtlogd, which loses the guests' logs")
	}
}

func TestStartReportsWhyADaemonEnded(t *testing.T) {
	t.Parallel()
	_, c := startTest(t, testUUID, "")
	c.Dir = t.TempDir()
	if len(c.socket()) > maxSocketPath {
		t.Skip("temporary directory too long for a socket")
	}
	c.Virtlogd = "/bin/false"
	_, err := Start(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "virtlogd") || !strings.Contains(err.Error(), "ended at once") {
		t.Errorf("error does not say that virtlogd ended: %v", err)
	}
}

func TestValidateNamesTheField(t *testing.T) {
	good := DefaultConfig()
	good.Dir, good.HostUUID = "/tmp/x", testUUID
	if err := good.Validate(); err != nil {
		t.Fatalf("a good configuration is refused: %v", err)
	}
	for field, spoil := range map[string]func(*Config){
		"Dir":          func(c *Config) { c.Dir = "relative" },
		"too long":     func(c *Config) { c.Dir = "/" + strings.Repeat("x", 100) },
		"HostUUID":     func(c *Config) { c.HostUUID = "host1" },
		"User":         func(c *Config) { c.User = "a b" },
		"Group":        func(c *Config) { c.Group = "" },
		"Libvirtd":     func(c *Config) { c.Libvirtd = "" },
		"StartTimeout": func(c *Config) { c.StartTimeout = 0 },
		"LogLevel":     func(c *Config) { c.LogLevel = 9 },
	} {
		c := good
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: got %v", field, err)
		}
	}
}
