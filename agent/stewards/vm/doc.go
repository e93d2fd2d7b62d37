// Package vm runs the control loop of virtual machines: it keeps the instance
// of a VirtualMachine in line with its run strategy, and the machine's status
// in line with its instance.
//
//	inputs   VirtualMachine, VirtualMachineInstance, DataVolume
//	outputs  VirtualMachineInstance (create, delete), DataVolume (create),
//	         VirtualMachine.status and its finalizer, events
//
// The loop owns VirtualMachine.status, except for the requests that the API
// adds to stateChangeRequests and the parts of other controllers (snapshots,
// volume requests, memory dumps, instance types), which it leaves unchanged. Of
// an instance it owns the spec and the finalizer
// kubevirt.io/virtualMachineControllerFinalize: an instance disappears only
// after its machine has seen how it ended.
//
// What the loop does is decided by pure functions (decide, printableStatus,
// syncConditions); reconcile gathers their results into one transaction, so
// that an instance and the status that speaks of it appear together.
//
// The loop does not choose a host and does not change a libvirt domain.
package vm
