// Package libvirt runs guests through libvirt's QEMU driver. It is the only package
// that imports libvirt's bindings, and implements the contract of package hypervisor.
//
// The driver keeps one connection to the daemon for events and short calls. When the
// connection is lost, the driver tries to connect again, and calls fail with
// hypervisor.ErrUnavailable until it has; then subscribers get an EventResync. Guests
// do not notice. Long calls have connections of their own, made when they are needed;
// see lane.
//
// Errors of libvirt and QEMU become hypervisor.Faults; the table is in faults.go.
//
// Invariants:
//   - A domain is touched only after its metadata has been read and names the
//     caller's Ref.
//   - State comes from the daemon's events, never from polling.
//   - No caller waits for libvirt longer than its context allows. Questions to guest
//     agents end after Config.AgentTimeout, and keep-alive messages detect a daemon
//     that is gone.
//   - Each connection has fewer open calls than the daemon allows by default, and all
//     connections together have no more than the daemon's default number of workers.
//   - Answers of guest agents are cut to bounds before anything else reads them.
//
// libvirt's client library has one event loop for the process. It is started by the
// first Driver and never ends; see loop.go.
package libvirt
