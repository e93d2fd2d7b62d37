// Package publish tells the mesh what this host is.
//
// The Publisher keeps the host's own Node, and the capacity that claims on it
// are judged by, in line with what the host is: it is the one writer of both
// while the host lives. It writes when something changed, not as a heartbeat:
// whether a host lives is a matter of gossip. The steward of a Node whose host
// is dead (package stewards/nodes) marks it; the Publisher takes that back.
//
// The Teller gossips facts: what is free, the load, the images that are here.
// Facts change all the time and cost no write.
//
// Labels, taints and annotations that the Publisher does not own, and
// spec.unschedulable, belong to the users and are left alone.
package publish
