package hypervisor

// FaultCode names a fault of the host or of a guest's definition, for use by programs.
// Codes do not change between versions.
type FaultCode string

// The codes of faults.
const (
	// FaultDiskLocked: another process, here or on another host, has the disk open.
	FaultDiskLocked FaultCode = "DiskLocked"
	// FaultDiskMissing: a file or device that backs a disk is not there.
	FaultDiskMissing FaultCode = "DiskMissing"
	// FaultAccessDenied: the emulator may not open a file.
	FaultAccessDenied FaultCode = "AccessDenied"
	// FaultDiskFormat: an image is not in the format that was named.
	FaultDiskFormat FaultCode = "DiskFormat"
	// FaultDiskAlignment: a raw image's size is no multiple of its block size.
	FaultDiskAlignment FaultCode = "DiskAlignment"
	// FaultNoSpace: the host's file system is full.
	FaultNoSpace FaultCode = "NoSpace"
	// FaultNoHugepages: the host does not have enough free huge pages of the size.
	FaultNoHugepages FaultCode = "NoHugepages"
	// FaultNoMemory: the host does not have enough memory.
	FaultNoMemory FaultCode = "NoMemory"
	// FaultNoKVM: hardware virtualization is missing or may not be used.
	FaultNoKVM FaultCode = "NoKVM"
	// FaultCPUUnsupported: the host cannot give a guest this CPU model or feature.
	FaultCPUUnsupported FaultCode = "CPUUnsupported"
	// FaultMachineUnsupported: the emulator does not know the machine type.
	FaultMachineUnsupported FaultCode = "MachineUnsupported"
	// FaultNameInUse: another domain has the name or the UUID.
	FaultNameInUse FaultCode = "NameInUse"
	// FaultAddressInUse: a port or socket is taken.
	FaultAddressInUse FaultCode = "AddressInUse"
	// FaultNetworkDevice: the tap or bridge of an interface is missing or in use.
	FaultNetworkDevice FaultCode = "NetworkDevice"
	// FaultHostDevice: a device of the host cannot be given to the guest.
	FaultHostDevice FaultCode = "HostDevice"
	// FaultTPM: the emulated TPM does not start.
	FaultTPM FaultCode = "TPM"
	// FaultFirmware: no firmware fits the definition.
	FaultFirmware FaultCode = "Firmware"
	// FaultNoSlot: the machine has no free slot, port or target for one more device.
	FaultNoSlot FaultCode = "NoSlot"
	// FaultBusy: another operation on the domain did not end in time.
	FaultBusy FaultCode = "Busy"
	// FaultUnconfined: the host lacks what must keep guests apart, so none starts there.
	FaultUnconfined FaultCode = "Unconfined"
	// FaultOther: a fault without a code of its own. Sentence is the hypervisor's
	// message, without the parts that vary from one occurrence to the next.
	FaultOther FaultCode = "Other"
)

// FaultCodes returns every code. They are also the reasons of conditions and events of a
// machine that does not start, except FaultOther.
func FaultCodes() []FaultCode {
	return []FaultCode{
		FaultDiskLocked, FaultDiskMissing, FaultAccessDenied, FaultDiskFormat, FaultDiskAlignment, FaultNoSpace,
		FaultNoHugepages, FaultNoMemory, FaultNoKVM, FaultCPUUnsupported, FaultMachineUnsupported, FaultNameInUse,
		FaultAddressInUse, FaultNetworkDevice, FaultHostDevice, FaultTPM, FaultFirmware, FaultNoSlot, FaultBusy, FaultUnconfined, FaultOther,
	}
}

// Fault is an error of the hypervisor in words for users. The same fault has the same
// text each time, without timestamps, process numbers or host paths, so that two faults
// can be compared. The hypervisor's exact message is in the log.
type Fault struct {
	Code FaultCode
	// Sentence says what is wrong, Remedy what can be done; Remedy may be empty.
	Sentence, Remedy string
	// Sentinel is the error of this package that fits, or nil.
	Sentinel error
	// Cause is the hypervisor's own error, for errors.As; it is not part of the text.
	Cause error
}

// Error returns sentence and remedy.
func (f *Fault) Error() string {
	if f.Remedy == "" {
		return f.Sentence
	}
	return f.Sentence + ": " + f.Remedy
}

// Unwrap returns Sentinel and Cause where they are set.
func (f *Fault) Unwrap() []error {
	var out []error
	for _, err := range []error{f.Sentinel, f.Cause} {
		if err != nil {
			out = append(out, err)
		}
	}
	return out
}
