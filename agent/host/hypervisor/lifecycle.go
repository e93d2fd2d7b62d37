package hypervisor

import "context"

// Lifecycle acts on a domain. Each act that reaches a state it is already in
// succeeds without effect.
type Lifecycle interface {
	// Start defines the domain and starts the guest. The definition must carry our
	// metadata. A domain of the same Ref that runs already is returned as it is; one
	// that is shut off is defined anew, which drops its records. On error nothing stays
	// defined that was not before. It waits until the guest's process is up, which may
	// take a minute on a busy host; only a few starts go on at once, others wait.
	Start(ctx context.Context, xml string, opts StartOptions) (Domain, error)
	// Shutdown asks the guest to end and does not wait for the end. The request goes
	// through the guest's agent when one is connected, and by the power button when
	// there is none or it does not take the request within a few seconds. A guest that
	// does not listen goes on; the caller may ask again, and decides when to Destroy it.
	Shutdown(ctx context.Context, ref Ref) error
	// Reboot asks the guest to boot anew. A reboot is reported by EventReboot.
	Reboot(ctx context.Context, ref Ref) error
	// Reset restarts the guest at once, as a reset button does.
	Reset(ctx context.Context, ref Ref) error
	// Destroy ends the guest at once and waits until its process is gone: after it
	// the guest writes to no disk. The domain stays defined.
	Destroy(ctx context.Context, ref Ref) error
	// Undefine drops a shut-off domain, and what opts does not keep of its firmware
	// variables and TPM state. A domain that is not there is no error.
	Undefine(ctx context.Context, ref Ref, opts UndefineOptions) error
	// Suspend stops the guest's CPUs; Resume lets them go on.
	Suspend(ctx context.Context, ref Ref) error
	Resume(ctx context.Context, ref Ref) error
}

// StartOptions vary a Start.
type StartOptions struct {
	// Paused leaves the guest's CPUs stopped until Resume.
	Paused bool
	// KeepNVRAM and KeepTPM are for a guest whose firmware variables and TPM state
	// outlive its domain: a Start that fails leaves them where they are. Without them it
	// removes what it may have made.
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

// Recorder keeps small facts in a domain's definition. They are there again after a
// restart of the agent, of the hypervisor's daemon and of the host, and go with
// Undefine, with a Start of the shut-off domain, and with a migration.
type Recorder interface {
	// SetRecord writes a record, in place of one of the same name; an empty value
	// removes it. It returns when the record would survive a crash of the agent. What
	// ValidateRecord says of name and value holds. It works on running and shut-off
	// domains, and does not wait for the guest. While the domain migrates or is saved it
	// waits for half a minute and fails with a Fault of FaultBusy.
	SetRecord(ctx context.Context, ref Ref, name, value string) error
	// SetOwner replaces the metadata that says whose the domain of owner.Ref is, as when
	// a claim on it has got another host or epoch.
	SetOwner(ctx context.Context, owner Owner) error
}
