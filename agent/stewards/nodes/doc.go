// Package nodes runs the two control loops of Node objects.
//
// The Publisher of a host keeps that host's own Node, and the capacity that
// claims on it are judged by, in line with what the host is: it is the one
// writer of both while the host lives. It writes when something changed, not
// as a heartbeat: whether a host lives is a matter of gossip.
//
// The Watcher speaks for hosts that cannot: the steward of a Node whose host
// gossip holds for dead sets its condition Ready to Unknown and taints it as
// unreachable. When the host is back, its Publisher takes that back.
//
// Labels, taints and annotations that these loops do not own, and
// spec.unschedulable, belong to the users and are left alone.
package nodes
