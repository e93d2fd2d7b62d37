//go:build libvirt_dlopen

package domain

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/hypervisortest"
	"virtmesh/agent/host/hypervisor/libvirt"
	"virtmesh/agent/host/hypervisor/privatelibvirtd"
)

// bootHost is a libvirt on which converted domains are tried.
type bootHost struct {
	driver *libvirt.Driver
	uri    string
	dir    string
	info   HostInfo
	// started is what the last start returned.
	started hypervisor.Domain
}

// newBootHost starts a libvirt, and lets change alter how if it is not nil.
func newBootHost(t *testing.T, change func(*privatelibvirtd.Config)) *bootHost {
	t.Helper()
	cfg := privatelibvirtd.DefaultConfig()
	if os.Geteuid() != 0 || testing.Short() {
		t.Skip("needs root, and runs guests")
	}
	if _, err := os.Stat(cfg.Libvirtd); err != nil {
		t.Fatalf("needs libvirt, which make packages installs: %v", err)
	}
	dir, err := os.MkdirTemp("", "vmd") // t.TempDir's paths are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	cfg.Dir, cfg.HostUUID, cfg.Isolate = filepath.Join(dir, "l"), "0f7d8a1e-0000-4000-8000-0000000000dd", true
	if change != nil {
		change(&cfg)
	}
	in, err := privatelibvirtd.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := in.Stop(ctx); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	driverConfig := libvirt.DefaultConfig()
	driverConfig.URI, driverConfig.Emulated = in.URI, func() bool { return true }
	driverConfig.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	driver, err := libvirt.New(t.Context(), driverConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = driver.Close() })
	caps, err := driver.Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &bootHost{driver: driver, uri: in.URI, dir: dir, info: HostInfo{
		Arch: caps.Arch, Emulator: caps.Emulator, MachineTypes: caps.MachineTypes(),
		MaxCPUs: caps.MaxVCPUs, EFI: caps.EFI, SecureBoot: caps.SecureBoot, TPM: caps.TPM,
	}}
}

func (h *bootHost) virsh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("virsh", append([]string{"-q", "-c", h.uri}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// start converts and runs vmi, whose every disk is a copy of the suite's guest, and
// returns its console from the first byte.
func (h *bootHost) start(t *testing.T, ctx context.Context, in Input) io.ReadWriteCloser {
	t.Helper()
	in.Machine = h.info
	in.Disks = map[string]Disk{}
	for _, d := range in.VMI.Spec.Domain.Devices.Disks {
		path := filepath.Join(h.dir, string(in.VMI.UID)+"-"+d.Name+".raw")
		if err := os.WriteFile(path, hypervisortest.BootDisk(), 0o600); err != nil {
			t.Fatal(err)
		}
		in.Disks[d.Name] = Disk{Type: DiskFile, Path: path, Format: "raw", DirectIO: true, Preallocated: true, ReadOnly: d.Name == "second" || d.Name == "cloudinit"}
	}
	domain, _, err := Convert(in)
	if err != nil {
		t.Fatal(err)
	}
	xml, err := domain.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	ref := Ref(in.VMI)
	if h.started, err = h.driver.Start(ctx, xml, hypervisor.StartOptions{Paused: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := h.driver.Destroy(ctx, ref); err != nil {
			t.Error(err)
		}
		if err := h.driver.Undefine(ctx, ref, hypervisor.UndefineOptions{}); err != nil {
			t.Error(err)
		}
	})
	console, err := h.driver.Console(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	context.AfterFunc(ctx, func() { _ = console.Close() })
	if err := h.driver.Resume(ctx, ref); err != nil {
		t.Fatal(err)
	}
	return console
}

func awaitText(t *testing.T, from io.Reader, text string) {
	t.Helper()
	var seen strings.Builder
	buf := make([]byte, 256)
	for !strings.Contains(seen.String(), text) {
		n, err := from.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v before %q, after %q", err, text, seen.String())
		}
	}
}

// TestConvertedGuestsRun starts what the conversion makes of VMIs that use much of it.
func TestConvertedGuestsRun(t *testing.T) {
	h := newBootHost(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for _, name := range []string{"minimal", "typical", "everything"} {
		t.Run(name, func(t *testing.T) {
			in := Input{VMI: load(t, name), Host: "host1", Epoch: 1}
			in.VMI.Spec.Domain.Devices.Interfaces, in.VMI.Spec.Networks = nil, nil
			in.Paths.SerialLog = filepath.Join(h.dir, name+".log")
			bootable := len(in.VMI.Spec.Domain.Devices.Disks) > 0
			console := h.start(t, ctx, in)
			defer console.Close()
			if bootable {
				awaitText(t, console, hypervisortest.Ready)
			}
			got, err := h.driver.Get(ctx, Ref(in.VMI))
			if err != nil || got.State != hypervisor.StateRunning || got.UUID != UUID(in.VMI) {
				t.Errorf("got %+v, %v", got, err)
			}
			if seen := h.virsh(t, "qemu-monitor-command", got.UUID, "--hmp", "info uuid"); !strings.Contains(seen, FirmwareUUID(in.VMI)) {
				t.Errorf("the guest's machine has the UUID %s, want %s", seen, FirmwareUUID(in.VMI))
			}
			if free := freePorts(t, h.virsh(t, "dumpxml", got.UUID)); free != sparePorts {
				t.Errorf("%d PCI ports are free, want %d", free, sparePorts)
			}
			if bootable {
				awaitLog(t, ctx, in.Paths.SerialLog, hypervisortest.Ready)
			}
		})
	}
}

// TestNamesakesShareAHost: KubeVirt derives the UUID that guests see from their name,
// so two of one name in two namespaces have the same.
func TestNamesakesShareAHost(t *testing.T) {
	h := newBootHost(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for namespace, uid := range map[string]types.UID{
		"one": "0f7d8a1e-0000-4000-8000-0000000000f1", "two": "0f7d8a1e-0000-4000-8000-0000000000f2",
	} {
		in := Input{VMI: load(t, "typical"), Host: "host1", Epoch: 1}
		in.VMI.Namespace, in.VMI.UID = namespace, uid
		in.VMI.Spec.Domain.Devices.Interfaces, in.VMI.Spec.Networks = nil, nil
		console := h.start(t, ctx, in)
		defer console.Close()
		awaitText(t, console, hypervisortest.Ready)
		if seen := h.smbiosUUID(t, in); seen != string(in.VMI.Spec.Domain.Firmware.UUID) {
			t.Errorf("%s: the guest reads the UUID %s, want %s", namespace, seen, in.VMI.Spec.Domain.Firmware.UUID)
		}
	}
}

// smbiosUUID reads the UUID of the machine as the guest's kernel does: from the table
// that the firmware left in memory. Its first three parts are little-endian there.
func (h *bootHost) smbiosUUID(t *testing.T, in Input) string {
	t.Helper()
	path := filepath.Join(h.dir, "memory-"+string(in.VMI.UID))
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	h.virsh(t, "qemu-monitor-command", UUID(in.VMI), fmt.Sprintf(
		`{"execute":"pmemsave","arguments":{"val":%d,"size":%d,"filename":%q}}`, 0xf0000, 0x10000, path))
	memory, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// A table of type 1 is 27 bytes long, its UUID 8 bytes in; its strings follow.
	for at := range len(memory) - 64 {
		if memory[at] != 1 || memory[at+1] != 27 || !bytes.HasPrefix(memory[at+27:], []byte("KubeVirt\x00None\x00")) {
			continue
		}
		u := uuid.UUID(memory[at+8 : at+24])
		slices.Reverse(u[0:4])
		slices.Reverse(u[4:6])
		slices.Reverse(u[6:8])
		return u.String()
	}
	return "none"
}

// awaitLog waits for text in a log, which another process writes when it gets to it.
func awaitLog(t *testing.T, ctx context.Context, path, text string) {
	t.Helper()
	for {
		log, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(log), text) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the console's log has %q, %v", log, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
