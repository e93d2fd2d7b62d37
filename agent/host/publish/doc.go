// Package publish tells the mesh what this host is.
//
// The Publisher keeps two objects in line with what the host is: the host's own Node,
// and the capacity that limits the claims on the host. While the host lives, it is the
// only writer of both. It writes when something changed, not as a heartbeat: gossip
// detects whether a host lives. When a host is dead, package stewards/nodes marks its
// Node; the host's Publisher removes the mark when the host is back.
//
// The Teller gossips facts: what is free, the load, the images that are here.
// Facts change all the time and cost no write.
//
// Labels, taints and annotations that the Publisher does not own, and
// spec.unschedulable, belong to the users and are left alone.
package publish
