// Package subresources serves subresources.kubevirt.io: the actions on a virtual
// machine that are not writes of its object, as virtctl and the KubeVirt client send
// them.
//
// Start, stop and restart requests are written to the VirtualMachine, and its
// controller acts on them, so the loss of any host does not lose an accepted request.
// Pause requests, consoles and queries to the guest agent go to the host that runs the
// instance; they are answered when they are done.
package subresources
