package hypervisor

import "context"

// Lifecycle starts, stops and removes domains. A call that asks for the state that a
// domain is already in succeeds without effect.
type Lifecycle interface {
	// Start defines the domain and starts the guest. The definition must carry our
	// metadata. A domain of the same Ref that already runs is returned as it is; one
	// that is shut off is redefined, which drops its records, under the UUID of the new
	// definition. If Start fails, a domain
	// that was not defined before is not left defined. Start waits until the guest's
	// process is up, which may take a minute on a busy host. Only a few starts run at
	// once; others wait.
	Start(ctx context.Context, xml string, opts StartOptions) (Domain, error)
	// Shutdown asks the guest to end and does not wait for the end. The request goes
	// through the guest's agent when one is connected. It goes by the power button when
	// there is no agent, or when the agent does not accept the request within a few
	// seconds. A guest may ignore the request; the caller may repeat it, and decides
	// when to call Destroy.
	Shutdown(ctx context.Context, ref Ref) error
	// Reboot asks the guest to boot anew, in the way in which Shutdown asks it to end. A
	// reboot is reported by EventReboot.
	Reboot(ctx context.Context, ref Ref) error
	// Reset restarts the guest at once, as a reset button does.
	Reset(ctx context.Context, ref Ref) error
	// Destroy ends the guest at once and waits until its process is gone: after Destroy
	// the guest no longer writes to any disk. The domain stays defined.
	Destroy(ctx context.Context, ref Ref) error
	// Undefine removes a shut-off domain, with its firmware variables and TPM state
	// unless opts keeps them. It succeeds if there is no such domain.
	Undefine(ctx context.Context, ref Ref, opts UndefineOptions) error
	// RemoveTPM removes the state that a TPM has left, after its domain with that UUID
	// was undefined with UndefineOptions.KeepTPM. It fails with ErrConflict while a
	// domain has the UUID, and succeeds if there is no such state.
	RemoveTPM(ctx context.Context, uuid string) error
	// HasTPM reports whether there is state of a TPM for a domain with that UUID. If there
	// is none, the next start of such a domain makes a TPM that knows nothing.
	HasTPM(ctx context.Context, uuid string) (bool, error)
	// Suspend stops the guest's CPUs; Resume starts them again.
	Suspend(ctx context.Context, ref Ref) error
	Resume(ctx context.Context, ref Ref) error
}

// StartOptions vary a Start.
type StartOptions struct {
	// Paused leaves the guest's CPUs stopped until Resume.
	Paused bool
	// KeepNVRAM and KeepTPM are for a guest whose firmware variables and TPM state
	// outlive its domain: a Start that fails leaves them where they are. Without them,
	// a Start that fails removes such state.
	KeepNVRAM, KeepTPM bool
}

// UndefineOptions vary an Undefine.
type UndefineOptions struct {
	// KeepNVRAM leaves the firmware's variables, a file whose path is in the
	// definition, for a later domain.
	KeepNVRAM bool
	// KeepTPM leaves the TPM's state, which a later domain with the same UUID finds.
	// Only a TPM whose definition says persistent_state has one.
	KeepTPM bool
}

// Recorder keeps small facts in a domain's definition. The records survive a restart of
// the agent, of the hypervisor's daemon and of the host. Undefine, a Start of the
// shut-off domain, and a migration remove them.
type Recorder interface {
	// SetRecord writes a record and replaces one of the same name; an empty value
	// removes the record. When SetRecord returns, the record survives a crash of the
	// agent. Name and value must satisfy ValidateRecord. SetRecord works on running and
	// shut-off domains and does not wait for the guest. While the domain migrates or is
	// saved, SetRecord waits for half a minute and then fails with a Fault of code
	// FaultBusy.
	SetRecord(ctx context.Context, ref Ref, name, value string) error
	// SetOwner replaces the Owner in the metadata of the domain of owner.Ref, for
	// example when its claim has a new host or epoch.
	SetOwner(ctx context.Context, owner Owner) error
}
