// Package executor carries out the claims on this host: it starts, watches,
// stops and cleans up the virtual machine instances that were placed here, and
// reports their status.
//
// One reconciliation compares three things: the VirtualMachineInstance as the
// mesh has it, the domain as the hypervisor has it, and the phase already
// reported.
//
//	phase       domain        what is done
//	Scheduled   none          prepare volumes and network, start   -> Running
//	any         running       report                               -> Running
//	Running     none          it is lost (the host was off)        -> Failed
//	any         shut off      clean up         -> Succeeded if by its guest, else Failed
//	deletion    running       shut down, cut power after the grace period
//	no instance any           stop and undefine what we made, drop disks and log
//
// Invariants:
//   - a domain is started only for an instance whose claim names this host, and
//     carries the claim's epoch. Instance and claim are read linearizably right
//     before the start, after everything that takes long;
//   - no worker waits for an image or a guest: volumes are prepared, and guest
//     agents asked, by tasks of the executor's own. The end of an instance ends
//     its preparation;
//   - how often a guest is asked, and written about, is not for it to choose;
//   - the claim and the finalizer go in the transaction that reports the final
//     phase, after the guest has ended and its volumes are released: nobody else
//     may start the instance before;
//   - a domain is stopped as an orphan only after the mesh confirmed, by a
//     linearizable read, that its instance is gone or runs elsewhere. When the
//     mesh cannot be asked, guests go on;
//   - restarting the agent touches no guest.
//
// The package decides nothing about where instances run, and knows volumes and
// networks only through the interfaces Volumes and Network.
package executor
