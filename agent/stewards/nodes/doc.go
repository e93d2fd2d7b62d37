// Package nodes is the steward of the Node objects of dead hosts. When gossip
// reports a host as dead, the Watcher sets the conditions of its Node to
// Unknown and taints the Node as unreachable. Instances then sets the condition
// Ready of the instances on that host to False, and does so of those on a host
// that says that its hypervisor is away.
//
// A live host maintains its own Node (package host/publish), and reverts what
// the Watcher wrote when it returns. Labels, taints and annotations that
// neither of the two owns, and spec.unschedulable, belong to the users and are
// left alone.
package nodes
