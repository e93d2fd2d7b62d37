// Package nodes is the steward of Node objects whose host cannot speak for
// itself: the Watcher of a Node whose host gossip holds for dead sets its
// conditions to Unknown and taints it as unreachable.
//
// A host that lives keeps its own Node (package host/publish), and takes the
// Watcher's word back when it returns. Labels, taints and annotations that
// neither of the two owns, and spec.unschedulable, belong to the users and are
// left alone.
package nodes
