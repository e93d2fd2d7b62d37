// Package hypervisor is the contract between the agent and what runs guests on its
// host. Package libvirt implements it; package hypervisortest holds a fake and the
// suite both pass. Nothing outside hypervisor/libvirt imports libvirt.
//
// # Whose domains
//
// A domain is ours when its definition carries the metadata element of this package
// (see Owner). Every method looks at it first: a domain without it, or with another
// UID than the caller named, does not exist as far as this contract is concerned. It
// is not listed, reported, stopped or removed, whatever its name.
//
// # Domains outlive everyone
//
// A domain is defined and started in one act, stays defined when the guest ends, and
// never starts by itself. So the way a guest ended can still be read by an agent that
// was not there, and what is removed is removed by Undefine alone. Guests go on when
// the agent or the hypervisor's daemon stops.
//
// # Calls
//
// All methods may be called from several goroutines at once and end soon after ctx
// does. A call that gave up on ctx may still take effect. Errors wrap the sentinels
// of this package where one fits. While the hypervisor's daemon is away, methods fail
// with ErrUnavailable, and an EventResync follows when it is back.
package hypervisor
