package libvirt

import (
	"regexp"
	"strings"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/plain"
)

// knownFault pairs a message of libvirt or QEMU with its meaning.
type knownFault struct {
	says             *regexp.Regexp
	code             hypervisor.FaultCode
	sentence, remedy string
	// sentinel is the error that the fault wraps; nil when a retry may help.
	sentinel error
}

// fault makes a row of knownFaults.
func fault(code hypervisor.FaultCode, says, sentence, remedy string) knownFault {
	return knownFault{says: regexp.MustCompile(says), code: code, sentence: sentence, remedy: remedy}
}

// final marks a fault that a retry cannot mend.
func (k knownFault) final() knownFault {
	k.sentinel = hypervisor.ErrInvalid
	return k
}

// unplugged marks a change that needs a restart of the guest.
func (k knownFault) unplugged() knownFault {
	k.sentinel = hypervisor.ErrUnsupported
	return k
}

// taken marks a name or UUID that another domain has.
func (k knownFault) taken() knownFault {
	k.sentinel = hypervisor.ErrConflict
	return k
}

// knownFaults is searched from top to bottom, so specific messages stand before general
// ones. The messages are those of libvirt 9.0 and QEMU 7.2, and those of newer versions
// where they are known to differ.
var knownFaults = []knownFault{
	fault(hypervisor.FaultDiskLocked,
		`(?i)Failed to get "(write|consistent read|shared write|resize)" lock|Is another process using the image|Failed to acquire lock|resource busy.*lock|Setting different (DAC|SELinux) .*already in use`,
		"a disk is in use by another process, on this host or on another one",
		"stop the other virtual machine or process that uses the volume"),
	fault(hypervisor.FaultDiskAlignment,
		`(?i)not a multiple of request alignment|image size must be a multiple|not aligned to (sector|block) size`,
		"the size of a disk image is not a multiple of its block size",
		"make the volume a multiple of 512 bytes, or of 4096 on such storage, or import the image again"),
	fault(hypervisor.FaultDiskFormat,
		`(?i)Image is not in \w+ format|Invalid format|file format detected|is not a valid qcow2|Image is corrupt|cannot be opened read/write`,
		"a disk image is not in the format it should have",
		"the image may be damaged: import it again"),
	fault(hypervisor.FaultNoHugepages,
		`(?i)hugepages? (is|are) not|unable to (find|map) .*hugetlbfs|hugetlbfs filesystem is not mounted|hugepages are disabled|unable to find any usable hugetlbfs|hugepages.*Cannot allocate memory|/hugepages/.*(Cannot allocate|os_mem_prealloc)|preallocate memory`,
		"the host has not enough free huge pages of the size asked for",
		"reserve more of them on the host, or give the virtual machine ordinary memory"),
	fault(hypervisor.FaultNoMemory,
		`(?i)cannot set up guest memory|Cannot allocate memory|out of memory|os_mem_prealloc`,
		"the host has not enough free memory for the guest",
		"free memory on the host, or give the virtual machine less"),
	fault(hypervisor.FaultNoKVM,
		`(?i)Could not access KVM kernel module|failed to initialize kvm|KVM is not (available|supported)|requires KVM|invalid accelerator kvm|domain type.*kvm.*not supported|does not support virt type 'kvm'|/dev/kvm.*(Permission denied|No such file)`,
		"hardware virtualization (KVM) is not available on the host",
		"turn it on in the firmware, load the kernel module kvm_intel or kvm_amd, or allow emulation"),
	fault(hypervisor.FaultCPUUnsupported,
		`(?i)guest CPU doesn't match specification|guest and host CPU are not compatible|unable to find CPU definition|Unknown CPU model|CPU model .*(not supported|not found)|CPU mode '.*' .*not supported|missing features:|host doesn't support requested feature|unknown CPU feature|CPU .*is incompatible with host`,
		"the host cannot give a guest this CPU model or one of its features",
		"choose a CPU model that this host has, or run the virtual machine on another host").final(),
	fault(hypervisor.FaultMachineUnsupported,
		`(?i)unsupported machine type|does not support machine type|Emulator '.*' does not support (machine|arch)|machine type '.*' (is not|does not)`,
		"the host's emulator does not know the machine type",
		"choose a machine type that this host has, or upgrade its emulator").final(),
	fault(hypervisor.FaultNameInUse,
		`(?i)domain '.*' (already exists|is already defined)|already (defined|exists) with uuid|domain with (name|uuid) .*already`,
		"another domain of the host has the name or the UUID",
		"rename or remove the domain that was defined by other means").taken(),
	fault(hypervisor.FaultTPM,
		`(?i)swtpm|tpm-emulator|TPM .*(fail|error)|could not (create|start).*TPM|Unable to find 'swtpm`,
		"the emulated TPM does not start",
		"see whether the package swtpm is installed, and the log of the guest's TPM on the host"),
	fault(hypervisor.FaultFirmware,
		`(?i)Unable to find any firmware|Unable to find .*(efi|firmware)|(OVMF|pflash|nvram).*(No such file|not found)|could not load PC BIOS|failed to find .*nvram|firmware.*not (supported|found)`,
		"the host has no firmware that fits the virtual machine",
		"install the package ovmf on the host, or change spec.domain.firmware"),
	fault(hypervisor.FaultHostDevice,
		`(?i)vfio|passthrough of host PCI devices|host ?dev.*(not found|in use|fail)|PCI device .*(in use|not found|not assignable)|Device .*not found: could not access|mdev|USB device .*(not found|in use)|no (usb|pci) device`,
		"a device of the host cannot be given to the guest",
		"see whether the device is there, unused and bound to vfio"),
	fault(hypervisor.FaultNetworkDevice,
		`(?i)Unable to (create|open|set).*\btap|could not (open|configure) /dev/net/tun|TUNSETIFF|specified dev doesn't exist|network interface .*(not found|in use)|Cannot get interface (MTU|flags|MAC)|Unable to open '/dev/(macv)?tap|Unable to add bridge|tap device|failed to find ((a )?bridge|interface)`,
		"the network device of an interface is missing on the host or in use",
		"see the host's network in the agent's log"),
	fault(hypervisor.FaultAddressInUse,
		`(?i)Address already in use|Failed to (bind|listen on) (socket|.*port)|Unable to (find an unused|reserve) port|port .*(in use|already)|Failed to find an available port`,
		"a port or socket that the guest needs is in use on the host",
		"see what else listens there, or choose another port"),
	fault(hypervisor.FaultNoSpace,
		`(?i)No space left on device|Disk quota exceeded`,
		"the host's file system is full",
		"free space in the storage pool or in the host's /var"),
	fault(hypervisor.FaultDiskMissing,
		`(?i)(Cannot access (storage|backing) file|Could not open( backing file)?|unable to (open|stat|set|chown)|cannot open (file|path)|Failed to (open|get .* of)|storage file).*(No such file or directory|No such device)|(No such file or directory)`,
		"a file or device that backs a disk or device of the guest does not exist",
		"see whether its storage is mounted and the volume still there"),
	fault(hypervisor.FaultAccessDenied,
		`(?i)Permission denied|Operation not permitted`,
		"the emulator may not open a file of the guest",
		"see the owner and mode of the volume, of the directories above it, and the host's AppArmor or SELinux log"),
	fault(hypervisor.FaultNoSlot,
		`(?i)No more available PCI (slots|addresses)|no free (slot|port)|PCI:? .*slot .*(in use|not available)|no more available|unable to find a free|not enough slots|No free memory slot|target .*already (exists|in use)`,
		"the machine has no free slot for one more device",
		"restart the virtual machine, which gives it new slots, or remove a device").unplugged(),
	fault(hypervisor.FaultOther,
		`(?i)does not support hotplugging|cannot be hot(un)?plugged|can be changed only in removable|(cannot|not possible to) (modify|change)|hot(un)?plug(ging)? .*not supported|live (attach|detach|update|change).*(not supported|cannot)`,
		"such a device cannot be changed while the guest runs",
		"restart the virtual machine").unplugged(),
	fault(hypervisor.FaultBusy,
		`(?i)cannot acquire state change lock|another (migration|job|block job|copy) .*(in progress|active)|already .*active block job|domain is already being`,
		"another act on the virtual machine is under way and does not end",
		"wait for it, or see what it is in the host's libvirt log"),
}

// Parts of messages that differ from one occurrence to the next, and their
// replacements.
var varying = []struct {
	is  *regexp.Regexp
	now string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?:?\s*`), ""},
	{regexp.MustCompile(`^(internal error|operation failed|unsupported configuration|Requested operation is not valid|invalid argument|XML error|Operation not supported): `), ""},
	{regexp.MustCompile(`(QEMU unexpectedly closed the monitor|process exited while connecting to monitor)( \(vm='[^']*'\))?: `), ""},
	{regexp.MustCompile(`\bqemu-system-\w+: `), ""},
	{regexp.MustCompile(`\b(pid|fd|uid|gid)([ =:])\d+`), "${1}${2}N"},
	{regexp.MustCompile(`0x[0-9a-fA-F]{5,}`), "0xN"},
	{regexp.MustCompile(`(^|[^\w.])(/[\w.@:+-]+){2,}/?`), "${1}(path)"},
	{regexp.MustCompile(`[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}`), "(uuid)"},
	{regexp.MustCompile(`\s+`), " "},
}

// maxPlainText bounds plainText in bytes. QEMU quotes whole command lines.
const maxPlainText = 300

// plainText makes one line of a message of libvirt or QEMU, and removes the parts that
// differ from one occurrence to the next.
func plainText(message string) string {
	const most = 8 << 10
	if len(message) > most {
		message = message[:most]
	}
	text := plain.Text(message)
	for _, v := range varying {
		text = v.is.ReplaceAllString(text, v.now)
	}
	return plain.Shorten(strings.TrimSpace(text), maxPlainText)
}
