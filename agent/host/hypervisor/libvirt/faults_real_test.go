package libvirt

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/hypervisortest"
)

// faulty is a guest that cannot start.
type faulty struct {
	name string
	code hypervisor.FaultCode
	// spoil changes the definition, and makes what it needs.
	spoil func(t *testing.T, d *daemon, xml string, owner hypervisor.Owner) string
	// final says that trying again does not help.
	final bool
}

// replaced is a spoil that replaces text in the definition.
func replaced(old, now string) func(*testing.T, *daemon, string, hypervisor.Owner) string {
	return func(t *testing.T, _ *daemon, xml string, _ hypervisor.Owner) string {
		t.Helper()
		if !strings.Contains(xml, old) {
			t.Fatalf("the definition has no %s", old)
		}
		return strings.Replace(xml, old, now, 1)
	}
}

// withDevice is a spoil that adds a device.
func withDevice(device string) func(*testing.T, *daemon, string, hypervisor.Owner) string {
	return replaced("</devices>", device+"</devices>")
}

func faultyGuests() []faulty {
	return []faulty{
		{"disk of a running guest", hypervisor.FaultDiskLocked, shareDisk, false},
		{"disk behind a closed directory", hypervisor.FaultAccessDenied, closedDirectory, false},
		{"raw disk named qcow2", hypervisor.FaultDiskFormat, replaced("type='raw'", "type='qcow2'"), false},
		{"huge pages", hypervisor.FaultNoHugepages, replaced("<vcpu", "<memoryBacking><hugepages/></memoryBacking><vcpu"), false},
		{"unknown CPU model", hypervisor.FaultCPUUnsupported, replaced("<vcpu", "<cpu mode='custom' match='exact'><model>Z80</model></cpu><vcpu"), true},
		{"unknown CPU feature", hypervisor.FaultCPUUnsupported, replaced("<vcpu", "<cpu mode='custom' match='exact'><model>qemu64</model><feature policy='require' name='warp'/></cpu><vcpu"), true},
		{"CPU that emulation lacks", hypervisor.FaultCPUUnsupported, replaced("<vcpu", "<cpu mode='custom' match='exact' check='full'><model>Icelake-Server</model></cpu><vcpu"), true},
		{"unknown machine", hypervisor.FaultMachineUnsupported, replaced("machine='q35'", "machine='pc-q35-99.0'"), true},
		{"port in use", hypervisor.FaultAddressInUse, usedPort, false},
		{"TPM without a place for its state", hypervisor.FaultTPM, brokenTPM, false},
		{"missing firmware file", hypervisor.FaultFirmware, replaced("<boot dev='hd'/>", "<loader readonly='yes' type='pflash'>/nowhere/OVMF_CODE.fd</loader><nvram template='/nowhere/OVMF_VARS.fd'/>"), false},
		{"firmware that nobody has", hypervisor.FaultFirmware, replaced("<os><type arch='x86_64' machine='q35'>hvm</type>", "<os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type><loader stateless='yes'/>"), false},
		{"missing tap", hypervisor.FaultNetworkDevice, withDevice("<interface type='ethernet'><target dev='vm-no-tap' managed='no'/></interface>"), false},
		{"missing bridge", hypervisor.FaultNetworkDevice, withDevice("<interface type='bridge'><source bridge='no-bridge'/></interface>"), false},
		{"missing host device", hypervisor.FaultHostDevice, withDevice("<hostdev mode='subsystem' type='pci' managed='no'><source><address domain='0' bus='0xfe' slot='0x1f' function='7'/></source></hostdev>"), false},
		{"more memory than there is", hypervisor.FaultNoMemory, replaced("<memory unit='MiB'>32", "<memory unit='TiB'>120"), false},
		{"too many CPUs", hypervisor.FaultOther, replaced("<vcpu current='1'>2<", "<vcpu current='1'>9999<"), true},
		{"unknown bus", hypervisor.FaultOther, replaced("bus='virtio'", "bus='scuzzy'"), true},
	}
}

func shareDisk(t *testing.T, d *daemon, xml string, owner hypervisor.Owner) string {
	t.Helper()
	first := owner
	first.Name, first.UID = "holder", "0f7d8a1e-0000-4000-8000-0000000000f0"
	driver := d.open(t)
	if _, err := driver.Start(t.Context(), d.guestXML(t, first), hypervisor.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.virsh(t, "destroy", first.DomainName()); d.virsh(t, "undefine", first.DomainName()) })
	return strings.ReplaceAll(xml, owner.UID+hypervisortest.DiskSuffix, first.UID+hypervisortest.DiskSuffix)
}

func closedDirectory(t *testing.T, d *daemon, xml string, owner hypervisor.Owner) string {
	t.Helper()
	closed := filepath.Join(d.dir, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	name := owner.UID + hypervisortest.DiskSuffix
	if err := os.Rename(filepath.Join(d.dir, name), filepath.Join(closed, name)); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(xml, filepath.Join(d.dir, name), filepath.Join(closed, name))
}

func usedPort(t *testing.T, d *daemon, xml string, owner hypervisor.Owner) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	port := listener.Addr().(*net.TCPAddr).Port
	return replaced("<serial type='pty'/><console type='pty'/>",
		fmt.Sprintf("<serial type='tcp'><source mode='bind' host='127.0.0.1' service='%d'/><protocol type='raw'/></serial>", port))(t, d, xml, owner)
}

func brokenTPM(t *testing.T, d *daemon, xml string, owner hypervisor.Owner) string {
	t.Helper()
	dir := filepath.Join(d.cfg.Dir, "lib", "swtpm")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, owner.UID), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return withDevice("<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>")(t, d, xml, owner)
}

// TestRealFaults provokes what hosts do wrong, and reads what becomes of libvirt's and
// QEMU's words for it.
func TestRealFaults(t *testing.T) {
	d := startDaemon(t)
	driver := d.open(t)
	for i, guest := range faultyGuests() {
		t.Run(guest.name, func(t *testing.T) {
			owner := hypervisor.Owner{
				Ref:  hypervisor.Ref{Namespace: "faulty", Name: fmt.Sprintf("vm%d", i), UID: fmt.Sprintf("0f7d8a1e-0000-4000-8000-0000000001%02x", i)},
				Host: "host1", Epoch: 1,
			}
			xml := guest.spoil(t, d, d.guestXML(t, owner), owner)
			_, err := driver.Start(t.Context(), xml, hypervisor.StartOptions{})
			var fault *hypervisor.Fault
			if !errors.As(err, &fault) {
				t.Fatalf("no fault: %v", err)
			}
			t.Logf("%v\nbecomes\n%v", fault.Cause, err)
			if fault.Code != guest.code {
				t.Errorf("it is taken for %s, want %s", fault.Code, guest.code)
			}
			if got := errors.Is(err, hypervisor.ErrInvalid); got != guest.final {
				t.Errorf("trying again is said to be useless: %v, want %v", got, guest.final)
			}
			if fault.Code != hypervisor.FaultOther && fault.Remedy == "" {
				t.Error("it names no remedy")
			}
			for _, varies := range []string{d.dir, owner.UID, "\n", "virError"} {
				if strings.Contains(err.Error(), varies) {
					t.Errorf("it says %q, in which %q varies", err, varies)
				}
			}
			if _, err := driver.Get(t.Context(), owner.Ref); !errors.Is(err, hypervisor.ErrNotFound) {
				t.Errorf("the failed start left its domain: %v", err)
			}
		})
	}
}

// TestRealHotplugFaults: what cannot be plugged is told apart from what is broken.
func TestRealHotplugFaults(t *testing.T) {
	d := startDaemon(t)
	driver := d.open(t)
	owner := hypervisor.Owner{Ref: hypervisor.Ref{Namespace: "faulty", Name: "plug", UID: "0f7d8a1e-0000-4000-8000-000000000200"}, Host: "host1", Epoch: 1}
	if _, err := driver.Start(t.Context(), d.guestXML(t, owner), hypervisor.StartOptions{Paused: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.virsh(t, "destroy", owner.DomainName()); d.virsh(t, "undefine", owner.DomainName()) })
	plug := func(name, target string) error {
		disk := strings.Replace(d.dataDisk(t, name), "dev='vdb' bus='virtio'", target, 1)
		return driver.AttachDevice(t.Context(), owner.Ref, disk)
	}
	if err := plug("cold", "dev='sdb' bus='sata'"); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("a SATA disk: %v", err)
	}
	if err := driver.UpdateDevice(t.Context(), owner.Ref, strings.Replace(d.dataDisk(t, hypervisortest.Disk), "vdb", "vda", 1)); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("another file behind a disk: %v", err)
	}
	root := filepath.Join(d.dir, owner.UID+hypervisortest.DiskSuffix)
	shared := strings.Replace(d.dataDisk(t, "again"), filepath.Join(d.dir, "again"), root, 1)
	if err := driver.AttachDevice(t.Context(), owner.Ref, shared); err == nil {
		t.Error("a disk was plugged twice")
	}
	full := false
	for i := range 12 {
		name := fmt.Sprintf("data%d", i)
		err := plug(name, fmt.Sprintf("dev='vd%c' bus='virtio'", 'b'+i))
		if err == nil {
			continue
		}
		full = true
		var fault *hypervisor.Fault
		if !errors.As(err, &fault) || fault.Code != hypervisor.FaultNoSlot || !errors.Is(err, hypervisor.ErrUnsupported) {
			t.Errorf("one disk too many: %v", err)
		}
		live, err := driver.LiveDefinition(t.Context(), owner.Ref)
		if err != nil || strings.Contains(live, hypervisor.AliasPrefix+name+"'") {
			t.Errorf("the disk that found no room is there: %v", err)
		}
		break
	}
	if !full {
		t.Error("twelve disks found room where there are six ports")
	}
}
