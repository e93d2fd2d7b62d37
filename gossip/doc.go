// Package gossip says who is in the mesh, whether they live, and what each of
// them can carry. It is the only package that knows hashicorp/memberlist.
//
// Two kinds of state travel here, and both are eventually consistent:
//
//   - Membership: alive, suspect, dead or left, found by probing (SWIM with
//     the Lifeguard extensions, from memberlist) and then held back by a
//     confirmation of our own, see detector.go.
//   - Facts: capacity, load, versions and labels of a member. Only the member
//     itself writes its facts; they are versioned, the highest version wins,
//     and they are lossy: changes are gossiped, and what gossip lost is
//     repaired when two members compare digests, see facts_sync.go.
//
// Invariants:
//
//   - Nothing in here blocks memberlist's goroutines: delegates take one short
//     lock, and subscribers are never waited for.
//   - A member is published as Dead only after it was Suspect for Profile.Hold,
//     scaled to the size of the mesh, and only after this process itself ran
//     without a stall for that long.
//   - The memory kept for a member is bounded, and a member that is gone is
//     forgotten after Config.DeadRetention or Config.LeftRetention.
//
// Not its job: deciding anything from membership (fencing and failover rest on
// leases in the replicated store, never on gossip), durable state, and
// authenticating hosts (the keyring only keeps strangers out).
//
// The package imports nothing of virtmesh.
package gossip
