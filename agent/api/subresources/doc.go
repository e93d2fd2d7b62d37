// Package subresources serves subresources.kubevirt.io: what one does to a
// virtual machine besides writing its object, as virtctl and the KubeVirt client
// send it.
//
// Starting, stopping and restarting are written to the VirtualMachine and acted on
// by its controller, so an accepted request survives every host. Pausing, consoles
// and questions to the guest agent go to the host that runs the instance and are
// answered when they are done.
package subresources
