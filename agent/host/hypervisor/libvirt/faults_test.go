package libvirt

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// said is a real message of libvirt or QEMU, from libvirt 9.0 and QEMU 7.2 unless it
// says otherwise.
type said struct {
	code     libvirt.ErrorNumber
	message  string
	fault    hypervisor.FaultCode
	sentinel error
}

func messages() []said {
	const internal, failed, system = libvirt.ERR_INTERNAL_ERROR, libvirt.ERR_OPERATION_FAILED, libvirt.ERR_SYSTEM_ERROR
	const config, invalid = libvirt.ERR_CONFIG_UNSUPPORTED, libvirt.ERR_OPERATION_INVALID
	const qemu = "internal error: process exited while connecting to monitor: 2024-11-26T04:14:37.228117Z qemu-system-x86_64: "
	return []said{
		{internal, qemu + "-device {\"driver\":\"virtio-blk-pci\",\"id\":\"ua-root\"}: Failed to get \"write\" lock\nIs another process using the image [/x/y]?", hypervisor.FaultDiskLocked, nil},
		{internal, qemu + "Failed to get shared \"write\" lock\nIs another process using the image [/x/y]?", hypervisor.FaultDiskLocked, nil},
		{internal, "internal error: unable to execute QEMU command 'device_add': Failed to get \"write\" lock", hypervisor.FaultDiskLocked, nil},
		// Two guests on one host have a disk of one claim, without shareable.
		{invalid, "Requested operation is not valid: Setting different DAC user or group on /x/y which is already in use", hypervisor.FaultDiskLocked, nil},
		{invalid, "Requested operation is not valid: Setting different SELinux label on /x/y which is already in use", hypervisor.FaultDiskLocked, nil},
		{internal, qemu + "-device virtio-blk-pci: Cannot get 'write' permission without 'resize': Image size is not a multiple of request alignment", hypervisor.FaultDiskAlignment, nil},
		{internal, qemu + "-blockdev {\"node-name\":\"libvirt-2-format\",\"driver\":\"qcow2\"}: Image is not in qcow2 format", hypervisor.FaultDiskFormat, nil},
		{internal, qemu + "Could not open '/x/y': Permission denied", hypervisor.FaultAccessDenied, nil},
		{internal, qemu + "-blockdev {\"driver\":\"file\"}: Could not open '/x/y': No such file or directory", hypervisor.FaultDiskMissing, nil},
		{system, "Cannot access storage file '/var/lib/x/disk.img' (as uid:64055, gid:108): No such file or directory", hypervisor.FaultDiskMissing, nil},
		{system, "Cannot access backing file '/x/base.img' of storage file '/x/top.qcow2': No such file or directory", hypervisor.FaultDiskMissing, nil},
		{internal, "internal error: hugetlbfs filesystem is not mounted or disabled by administrator config", hypervisor.FaultNoHugepages, nil},
		{internal, "internal error: Unable to find any usable hugetlbfs mount for 1048576 KiB", hypervisor.FaultNoHugepages, nil},
		{internal, qemu + "unable to map backing store for guest RAM: /dev/hugepages/libvirt/qemu/1-x: Cannot allocate memory", hypervisor.FaultNoHugepages, nil},
		{internal, qemu + "cannot set up guest memory 'pc.ram': Cannot allocate memory", hypervisor.FaultNoMemory, nil},
		{internal, "internal error: process exited while connecting to monitor: Could not access KVM kernel module: No such file or directory", hypervisor.FaultNoKVM, nil},
		{internal, "internal error: process exited while connecting to monitor: Could not access KVM kernel module: Permission denied\nfailed to initialize kvm: Permission denied", hypervisor.FaultNoKVM, nil},
		{config, "unsupported configuration: Domain requires KVM, but it is not available. Check that virtualization is enabled in the host BIOS, and host configuration is setup to load the kvm modules.", hypervisor.FaultNoKVM, nil},
		{failed, "operation failed: guest CPU doesn't match specification: missing features: vme,pcid,x2apic", hypervisor.FaultCPUUnsupported, hypervisor.ErrInvalid},
		{config, "unsupported configuration: unknown CPU feature: warp", hypervisor.FaultCPUUnsupported, hypervisor.ErrInvalid},
		{internal, "internal error: Unknown CPU model Z80", hypervisor.FaultCPUUnsupported, hypervisor.ErrInvalid},
		{libvirt.ERR_CPU_INCOMPATIBLE, "the CPU is incompatible with host CPU: Host CPU does not provide required features: avx512f", hypervisor.FaultCPUUnsupported, hypervisor.ErrInvalid},
		{config, "unsupported configuration: Emulator '/usr/bin/qemu-system-x86_64' does not support machine type 'pc-q35-99.0'", hypervisor.FaultMachineUnsupported, hypervisor.ErrInvalid},
		{failed, "operation failed: domain 'ns_vm' already exists with uuid 0f7d8a1e-0000-4000-8000-00000000010a", hypervisor.FaultNameInUse, hypervisor.ErrConflict},
		{failed, "operation failed: domain 'other' is already defined with uuid 0f7d8a1e-0000-4000-8000-00000000010a", hypervisor.FaultNameInUse, hypervisor.ErrConflict},
		{internal, qemu + "-chardev socket,id=charserial0,host=127.0.0.1,port=32887,server=on,wait=off: Failed to find an available port: Address already in use", hypervisor.FaultAddressInUse, nil},
		{internal, "internal error: Unable to reserve port 5901", hypervisor.FaultAddressInUse, nil},
		{system, "Could not create TPM directory /var/lib/libvirt/swtpm/0f7d8a1e: Not a directory", hypervisor.FaultTPM, nil},
		{internal, "internal error: Could not run '/usr/bin/swtpm_setup'. exitstatus: 1; Check error log '/var/log/swtpm/libvirt/qemu/x-swtpm.log' for details.", hypervisor.FaultTPM, nil},
		{config, "unsupported configuration: TPM version '2.0' is not supported: Unable to find 'swtpm' binary", hypervisor.FaultTPM, nil},
		{failed, "operation failed: Unable to find any firmware to satisfy 'efi'", hypervisor.FaultFirmware, nil},
		{system, "Failed to open file '/nowhere/OVMF_VARS.fd': No such file or directory", hypervisor.FaultFirmware, nil},
		{internal, "internal error: target managed='no' but specified dev doesn't exist", hypervisor.FaultNetworkDevice, nil},
		{system, "Cannot get interface MTU on 'no-bridge': No such device", hypervisor.FaultNetworkDevice, nil},
		{system, "Unable to create tap device vnet0: Device or resource busy", hypervisor.FaultNetworkDevice, nil},
		{config, "unsupported configuration: host doesn't support passthrough of host PCI devices", hypervisor.FaultHostDevice, nil},
		{invalid, "Requested operation is not valid: PCI device 0000:3b:00.0 is in use by driver QEMU, domain other", hypervisor.FaultHostDevice, nil},
		{internal, qemu + "-device vfio-pci,host=0000:3b:00.0: vfio 0000:3b:00.0: group 12 is not viable", hypervisor.FaultHostDevice, nil},
		{system, "unable to write to '/var/lib/libvirt/qemu/nvram/x': No space left on device", hypervisor.FaultNoSpace, nil},
		{internal, "internal error: No more available PCI slots", hypervisor.FaultNoSlot, hypervisor.ErrUnsupported},
		{failed, "operation failed: target vdb already exists", hypervisor.FaultNoSlot, hypervisor.ErrUnsupported},
		{libvirt.ERR_OPERATION_UNSUPPORTED, "Operation not supported: disk bus 'sata' cannot be hotplugged.", hypervisor.FaultOther, hypervisor.ErrUnsupported},
		{internal, "internal error: unable to execute QEMU command 'device_add': Bus 'ide.1' does not support hotplugging", hypervisor.FaultOther, hypervisor.ErrUnsupported},
		{libvirt.ERR_OPERATION_TIMEOUT, "Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatchDomainCreateWithFlags)", hypervisor.FaultBusy, nil},
		{libvirt.ERR_NO_DOMAIN, "Domain not found: no domain with matching name 'ns_vm'", hypervisor.FaultOther, hypervisor.ErrNotFound},
		{invalid, "Requested operation is not valid: domain is not running", hypervisor.FaultOther, hypervisor.ErrNotRunning},
		{invalid, "Requested operation is not valid: post-copy can only be started while outgoing migration is in progress", hypervisor.FaultOther, nil},
		{libvirt.ERR_AGENT_UNRESPONSIVE, "Guest agent is not responding: QEMU guest agent is not connected", hypervisor.FaultOther, hypervisor.ErrNoAgent},
		{libvirt.ERR_AGENT_COMMAND_TIMEOUT, "agent command timed out", hypervisor.FaultOther, hypervisor.ErrNoAgent},
		{libvirt.ERR_XML_ERROR, "XML error: Invalid value for attribute 'bus' in element 'target': 'scuzzy'.", hypervisor.FaultOther, hypervisor.ErrInvalid},
		{config, "unsupported configuration: Maximum CPUs greater than specified machine type limit 288", hypervisor.FaultOther, hypervisor.ErrInvalid},
		{libvirt.ERR_NO_CONNECT, "Failed to connect socket to '/run/libvirt/libvirt-sock': No such file or directory", hypervisor.FaultOther, hypervisor.ErrUnavailable},
		{internal, "", hypervisor.FaultOther, nil},
	}
}

var everySentinel = []error{
	hypervisor.ErrNotFound, hypervisor.ErrConflict, hypervisor.ErrNotRunning, hypervisor.ErrNoAgent,
	hypervisor.ErrUnavailable, hypervisor.ErrInvalid, hypervisor.ErrUnsupported,
}

// The list of codes is complete: reasons of events are made from it.
func TestCodesAreListed(t *testing.T) {
	for _, known := range knownFaults {
		if !slices.Contains(hypervisor.FaultCodes(), known.code) {
			t.Errorf("the code %s is not in FaultCodes", known.code)
		}
	}
}

// TestMessagesBecomeFaults: each message is told apart, wraps what callers act upon, and
// reads as one short line without what varies.
func TestMessagesBecomeFaults(t *testing.T) {
	for _, m := range messages() {
		fault := faultOf(libvirt.Error{Code: m.code, Message: m.message})
		if fault.Code != m.fault {
			t.Errorf("%q\n  is taken for %s, want %s", m.message, fault.Code, m.fault)
		}
		for _, s := range everySentinel {
			if errors.Is(fault, s) != errors.Is(m.sentinel, s) {
				t.Errorf("%q\n  wraps %v, want %v", m.message, fault.Sentinel, m.sentinel)
			}
		}
		text := fault.Error()
		if text == "" || len(text) > 2*maxPlainText || strings.ContainsAny(text, "\n\t") {
			t.Errorf("%q\n  reads %q", m.message, text)
		}
		for _, varies := range []string{"2024-", "/var/", "/x/", "0f7d8a1e", "virError", "64055", "qemu-system"} {
			if strings.Contains(text, varies) {
				t.Errorf("%q\n  reads %q, in which %q varies", m.message, text, varies)
			}
		}
	}
}

// TestBrokenConnectionIsUnavailable: what breaks under a call is the connection, not
// the domain.
func TestBrokenConnectionIsUnavailable(t *testing.T) {
	for domain, want := range map[libvirt.ErrorDomain]bool{
		libvirt.FROM_RPC: true, libvirt.FROM_REMOTE: true, libvirt.FROM_STREAMS: true, libvirt.FROM_QEMU: false,
	} {
		for _, code := range []libvirt.ErrorNumber{libvirt.ERR_INTERNAL_ERROR, libvirt.ERR_SYSTEM_ERROR} {
			got := errors.Is(faultOf(libvirt.Error{Code: code, Domain: domain, Message: "End of file while reading data"}), hypervisor.ErrUnavailable)
			if got != want {
				t.Errorf("domain %d, code %d: unavailable %v", domain, code, got)
			}
		}
	}
}

func TestTranslateKeepsWhatWasWrapped(t *testing.T) {
	var log strings.Builder
	d := &Driver{log: slog.New(slog.NewTextHandler(&log, nil))}
	plain := errors.New("ours")
	if got := d.translate("act", plain); !errors.Is(got, plain) || got.Error() != plain.Error() {
		t.Errorf("an error that is not libvirt's becomes %v", got)
	}
	raw := libvirt.Error{Code: libvirt.ERR_INTERNAL_ERROR, Message: "internal error: Failed to get \"write\" lock at 2024-11-26T04:14:37Z"}
	lost := fmt.Errorf("%w (shutoff, failed): %w", hypervisor.ErrMigrationLost, raw)
	err := d.translate("migrate ns/vm", lost)
	if !errors.Is(err, hypervisor.ErrMigrationLost) || !is(err, libvirt.ERR_INTERNAL_ERROR) {
		t.Errorf("%v does not wrap what it did", err)
	}
	if text := err.Error(); !strings.HasPrefix(text, hypervisor.ErrMigrationLost.Error()+": ") || strings.Contains(text, "2024") {
		t.Errorf("it reads %q", text)
	}
	if !strings.Contains(log.String(), "2024-11-26T04:14:37Z") || !strings.Contains(log.String(), "migrate ns/vm") {
		t.Errorf("the log lacks what libvirt said: %s", log.String())
	}
}

func TestPlainText(t *testing.T) {
	for message, want := range map[string]string{
		"internal error: something":                                            "something",
		"unsupported configuration: CPUs":                                      "CPUs",
		"cannot open /var/lib/x/y.img for reading":                             "cannot open (path) for reading",
		"a/b is a word, /dev alone is short":                                   "a/b is a word, /dev alone is short",
		"pid 1234 and fd=17":                                                   "pid N and fd=N",
		"domain 0f7d8a1e-0000-4000-8000-00000000010a":                          "domain (uuid)",
		"at 0x7f3a2b1c":                                                        "at 0xN",
		"two\nlines\tand  spaces ":                                             "two lines and spaces",
		"2024-11-26T04:14:37.228117Z qemu-system-x86_64: -foo: invalid option": "-foo: invalid option",
		"2024-11-26 04:14:37.228+0000: it":                                     "it",
		"bytes \xff\xfe and \x1b[31mcolour":                                    "bytes and [31mcolour",
		"from the left \u202eand \u009b31mcolour":                              "from the left and 31mcolour",
		"": "",
	} {
		if got := plainText(message); got != want {
			t.Errorf("%q becomes %q, want %q", message, got, want)
		}
	}
	if got := plainText(strings.Repeat("é", 1000)); len(got) > maxPlainText || !strings.HasSuffix(got, "é…") {
		t.Errorf("a long message becomes %q", got)
	}
}

func FuzzPlainText(f *testing.F) {
	for _, m := range messages() {
		f.Add(m.message)
	}
	f.Add(strings.Repeat("/a/b", 5000))
	f.Fuzz(func(t *testing.T, message string) {
		got := plainText(message)
		if len(got) > maxPlainText || !utf8.ValidString(got) || strings.ContainsAny(got, "\n\r\t\x00") {
			t.Errorf("%q becomes %q", message, got)
		}
		if again := plainText(message); again != got {
			t.Errorf("%q becomes %q, then %q", message, got, again)
		}
	})
}

// An error after which another start tells why QEMU ended.
func TestHidesReason(t *testing.T) {
	for message, want := range map[string]bool{
		"failed to connect to monitor socket: Connection refused":                        true,
		"internal error: qemu unexpectedly closed the monitor: Failed to get write lock": false,
		"internal error: hugetlbfs filesystem is not mounted":                            false,
		"internal error: qemu unexpectedly closed the monitor":                           true,
		"internal error: process exited while connecting to monitor: ":                   true,
		"internal error: QEMU unexpectedly closed the monitor (vm='virtmesh_a_b')":       true,
		"internal error: QEMU unexpectedly closed the monitor (vm='a'): Failed to bind":  false,
	} {
		err := fmt.Errorf("start: %w", libvirt.Error{Code: libvirt.ERR_SYSTEM_ERROR, Domain: libvirt.FROM_QEMU, Message: message})
		if got := hidesReason(err); got != want {
			t.Errorf("%q hides its reason: %v, want %v", message, got, want)
		}
	}
}
