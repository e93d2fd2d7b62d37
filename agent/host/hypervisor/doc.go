// Package hypervisor is the contract between the agent and the software that runs
// guests on its host. Package libvirt implements it; package hypervisortest holds a
// fake and the test suite that both must pass. Nothing outside hypervisor/libvirt
// imports libvirt.
//
// # Whose domains
//
// A domain is ours when its definition carries the metadata element of this package
// (see Owner). Every method reads that element first. A domain without the element, or
// whose element has another UID than the caller named, does not exist for this
// contract: it is not listed, reported, stopped or removed, whatever its name.
//
// # Domains outlive everyone
//
// A domain is defined and started by one call, stays defined when the guest ends, and
// never starts by itself. So an agent that was not running can still read how a guest
// ended, and only Undefine removes a domain. Guests keep running when the agent or the
// hypervisor's daemon stops.
//
// # Calls
//
// All methods may be called from several goroutines at once and end soon after ctx
// does. A call that returned because ctx ended may still take effect. Errors wrap the
// sentinels of this package where one fits. While the hypervisor's daemon is away,
// methods fail with ErrUnavailable, and an EventResync follows when it is back.
package hypervisor
