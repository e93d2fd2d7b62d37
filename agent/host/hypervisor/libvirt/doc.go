// Package libvirt runs guests through libvirt's QEMU driver. It is the only package
// that imports libvirt's bindings, and implements the contract of package hypervisor.
//
// One connection is kept to the daemon for events and short calls; when it is lost,
// calls fail with hypervisor.ErrUnavailable while a new one is tried for, and
// subscribers get an EventResync as soon as it stands. Guests do not notice. Long calls
// have connections of their own, made when they are needed; see lane.
//
// Errors of libvirt and QEMU become hypervisor.Faults; the table is in faults.go.
//
// Invariants:
//   - A domain is touched only after its metadata has been read and names the
//     caller's Ref.
//   - State comes from the daemon's events, never from polling.
//   - No call into libvirt outlives its bound unnoticed: callers are released when
//     their context ends, guest agents answer within Config.AgentTimeout or not at
//     all, and keep-alive messages find a daemon that is gone.
//   - No connection has as many calls open as the daemon allows by default, and all
//     together no more than it has workers by default.
//   - What a guest says through its agent is cut to bounds before it goes anywhere.
//
// libvirt's client library has one event loop for the process. It is started by the
// first Driver and never ends; see loop.go.
package libvirt
