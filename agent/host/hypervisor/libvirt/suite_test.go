package libvirt

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/hypervisortest"
	"virtmesh/agent/host/hypervisor/privatelibvirtd"
)

// probeCache keeps what libvirt learns of QEMU, seconds of work, for all daemons of these
// tests. TestMain alone sets it.
var probeCache string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "vmlcache")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	probeCache = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// daemon is a libvirt for one test function and the tests below it.
type daemon struct {
	*privatelibvirtd.Instance
	cfg privatelibvirtd.Config
	dir string // for disks; the guests' user can reach it
}

// startDaemon runs a libvirt, or skips the test where it cannot.
func startDaemon(t *testing.T) *daemon {
	t.Helper()
	cfg := privatelibvirtd.DefaultConfig()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat(cfg.Libvirtd); err != nil {
		t.Fatalf("needs libvirt, which make packages installs: %v", err)
	}
	if testing.Short() {
		t.Skip("runs guests")
	}
	// t.TempDir's paths are too long for a socket, and closed to the guests' user.
	dir, err := os.MkdirTemp("", "vml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	cfg.Dir, cfg.Isolate = filepath.Join(dir, "l"), true
	cfg.HostUUID, cfg.CacheDir = randomUUID(), probeCache
	in, err := privatelibvirtd.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{Instance: in, cfg: cfg, dir: dir}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(cfg.Dir, "log", "libvirtd.log"))
			t.Logf("libvirtd said:\n%s", log)
		}
		if err := in.Stop(ctx); err != nil {
			t.Error(err)
		}
		// Guests outlive their daemon, also those of a test that has failed. Without one,
		// pkill ends with an error.
		_ = exec.Command("pkill", "-KILL", "-f", "qemu-system.*"+dir+"/").Run()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return d
}

// randomUUID returns one: daemons that migrate to each other must differ.
func randomUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // does not fail
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// open returns a driver that the test closes.
func (d *daemon) open(t *testing.T) *Driver {
	t.Helper()
	cfg := DefaultConfig()
	cfg.URI, cfg.TPMDir = d.URI, filepath.Join(d.cfg.Dir, "lib", "swtpm")
	cfg.AgentTimeout = time.Second
	cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	driver, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := driver.Close(); err != nil {
			t.Error(err)
		}
	})
	return driver
}

// guestXML defines the guest of the suite, on a disk of its own.
func (d *daemon) guestXML(t *testing.T, owner hypervisor.Owner) string {
	t.Helper()
	disk := filepath.Join(d.dir, owner.UID+hypervisortest.DiskSuffix)
	if err := os.WriteFile(disk, hypervisortest.BootDisk(), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`<domain type='qemu'>
  <name>%s</name>
  <uuid>%s</uuid>
  <metadata>%s</metadata>
  <memory unit='MiB'>32</memory>
  <vcpu current='1'>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff><on_crash>destroy</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='%s'/><target dev='vda' bus='virtio'/><alias name='ua-%s'/>
    </disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/><alias name='ua-%s'/></disk>
    <controller type='usb' model='none'/>
    <controller type='pci' model='pcie-root'/>
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
    <serial type='pty'/><console type='pty'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <graphics type='vnc'><listen type='none'/></graphics>
    <video><model type='vga'/></video>
  </devices>
</domain>`, owner.DomainName(), owner.UID, owner.Metadata(), disk, hypervisortest.Disk, hypervisortest.Drive)
}

func (d *daemon) virsh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("virsh", append([]string{"-q", "-c", d.URI}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (d *daemon) defineForeign(t *testing.T, name string) func() bool {
	t.Helper()
	xml := filepath.Join(t.TempDir(), "foreign.xml")
	text := fmt.Sprintf(`<domain type='qemu'><name>%s</name><memory unit='MiB'>32</memory><os><type arch='x86_64' machine='q35'>hvm</type></os></domain>`, name)
	if err := os.WriteFile(xml, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d.virsh(t, "define", xml)
	// The test's context has ended when this runs, but virsh needs none.
	t.Cleanup(func() { d.virsh(t, "undefine", name) })
	return func() bool { return strings.Contains(d.virsh(t, "list", "--all", "--name"), name) }
}

func TestSuite(t *testing.T) {
	d := startDaemon(t)
	var warm sync.Once
	hypervisortest.Run(t, hypervisortest.Harness{
		New: func(t *testing.T) hypervisor.Hypervisor {
			driver := d.open(t)
			// libvirt probes QEMU for seconds at the first use; no test should have
			// that in its time.
			warm.Do(func() { _, _ = driver.Capabilities(t.Context()) })
			return driver
		},
		XML:            d.guestXML,
		DataDisk:       d.dataDisk,
		Medium:         d.medium,
		Firmware:       d.firmwareXML,
		FirmwareState:  d.firmwareState,
		BeginBlockCopy: d.beginBlockCopy,
		DefineForeign:  d.defineForeign,
	})
}
