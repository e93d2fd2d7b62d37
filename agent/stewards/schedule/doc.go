// Package schedule runs the control loop that gives instances a host.
//
//	inputs   VirtualMachineInstance, Node, Namespace, PersistentVolumeClaim,
//	         claims, facts
//	outputs  claims of instances; of an instance without a claim: phase,
//	         nodeName, the label kubevirt.io/nodeName, the condition
//	         PodScheduled; events
//
// For an instance without a claim, its steward chooses a host (package
// agent/stewards/schedule/place) on a View that follows facts, nodes and claims; asks that
// host for an offer, and the next best if it refuses; and writes claim and
// status in one transaction, which the store refuses if another steward was
// faster, the host is full after all, or another was placed meanwhile that the
// decision should have counted. An instance for which there is no room
// says so in its status, and is tried again when something changes.
//
// An instance that is deleted, or has failed, before it had a claim has no
// host to let go of it: its steward removes the finalizer.
//
// The loop never moves or stops an instance that has a claim.
package schedule
