package hypervisor

import "errors"

// Errors that callers act upon.
var (
	// ErrNotFound: no domain of ours with that Ref.
	ErrNotFound = errors.New("no such domain")
	// ErrConflict: Start found the name or the UUID taken by another domain.
	ErrConflict = errors.New("name or uuid in use by another domain")
	// ErrNotRunning: the call needs a running guest.
	ErrNotRunning = errors.New("domain is not running")
	// ErrRunning: Undefine refuses to drop a running domain.
	ErrRunning = errors.New("domain is running")
	// ErrNoAgent: the guest's agent is not connected, or did not answer in time.
	ErrNoAgent = errors.New("guest agent not available")
	// ErrNoDevice: the domain has no console, display or device of that name.
	ErrNoDevice = errors.New("domain has no such device")
	// ErrUnavailable: the hypervisor's daemon cannot be reached now.
	ErrUnavailable = errors.New("hypervisor unavailable")
	// ErrMigrationLost: a migration failed after the guest had left, so that it runs on
	// neither side.
	ErrMigrationLost = errors.New("guest lost in migration")
	// ErrInvalid: the hypervisor rejects the definition or the value. Trying again does
	// not help.
	ErrInvalid = errors.New("domain definition rejected")
	// ErrUnsupported: the hypervisor cannot make this change to a running guest. The
	// change takes effect at the guest's next start.
	ErrUnsupported = errors.New("not possible while the guest runs")
	// ErrRefused: the guest did not do what it was asked to do, and nothing has
	// changed.
	ErrRefused = errors.New("the guest does not comply")
)
