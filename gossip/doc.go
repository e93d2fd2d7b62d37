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
// Members of different versions share a mesh, so facts are read by rules that never change:
//
//   - A section is a sequence of fields (tag, length, value). The order of the fields means
//     nothing; equal facts have the same one, so that they are equal bytes.
//   - A tag is in a section at most once. A section with a tag twice, or with a value that
//     is cut short, is refused whole, and the one before it stays.
//   - A tag means the same for ever and is never used again. A field of an unknown tag is
//     skipped, and so is what follows the known part of a value.
//   - Sections are relayed byte for byte, with what the relaying member does not know. Of
//     the sections that only later versions have, up to eight in all, nothing is read.
//
// The package makes no decisions from membership: fencing and failover rely on
// leases in the replicated store, never on gossip. It keeps no durable state, and it
// does not authenticate single hosts: the shared keys only keep out hosts that do not
// have them.
//
// The package imports no other package of virtmesh.
package gossip
