// Package gossip reports which members are in the mesh, whether they are alive, and
// what capacity each of them has. It is the only package that imports
// hashicorp/memberlist.
//
// Two kinds of state travel here, and both are eventually consistent:
//
//   - Membership: alive, suspect, dead or left. memberlist finds it by probing
//     (SWIM with the Lifeguard extensions). This package holds memberlist's verdict
//     on a death back until it has confirmed the death itself, see detector.go.
//   - Facts: capacity, load, versions and labels of a member. Only the member
//     itself writes its facts. They are versioned, and the highest version wins.
//     Changes are gossiped, which may lose some; two members that compare digests
//     repair what was lost, see facts_sync.go.
//
// Invariants:
//
//   - This package never blocks memberlist's goroutines: its delegates take one
//     short lock, and it never waits for subscribers.
//   - A member is published as Dead only after it was Suspect for Profile.Hold,
//     scaled to the size of the mesh. Time during which this process itself was
//     stalled does not count.
//   - The memory kept for a member is bounded. A member that died or left is
//     forgotten after Config.DeadRetention or Config.LeftRetention.
//
// The package makes no decisions from membership: fencing and failover rely on
// leases in the replicated store, never on gossip. It keeps no durable state, and it
// does not authenticate single hosts: the shared keys only keep out hosts that do not
// have them.
//
// The package imports no other package of virtmesh.
package gossip
