// Package schedule runs the control loop that gives instances a host.
//
//	inputs   VirtualMachineInstance, Node, Namespace, PersistentVolumeClaim,
//	         claims, facts
//	outputs  claims of instances; of an instance without a claim: phase,
//	         nodeName, the label kubevirt.io/nodeName, the condition
//	         PodScheduled; events
//
// For an instance without a claim, its steward chooses a host (package
// agent/stewards/schedule/place) on a View that follows facts, nodes and
// claims; asks that host for an offer, and the next best if it refuses; and
// writes claim and status in one transaction. The store refuses the transaction
// if another steward was faster, if the host has no room after all, or if
// another instance was placed meanwhile that affects the decision. If no host
// has room for an instance, its status says so, and the steward tries again
// when something changes.
//
// A View changes in small steps: news of a host makes it read that host and no
// other, and no lock is held meanwhile, so decisions go on. In a mesh of 500 hosts a
// changed load costs 3 us; to look at all of them, as after events of the gossip were
// lost, takes a hundred times as long and more (BenchmarkRefresh).
//
// If an instance is deleted or fails before it has a claim, there is no host
// that could remove its finalizer, so its steward removes it.
//
// The loop never moves or stops an instance that has a claim.
package schedule
