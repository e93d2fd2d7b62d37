// Package raftstore is a replicated, ordered key-value store on hashicorp/raft.
//
// Every host of the mesh opens one Store. A few of them vote, all of them hold
// the whole state, so reads and watches are served from the local replica and
// writes go to the leader from wherever they are made.
//
// A write is a Txn: conditions on the revisions of keys, puts and deletes, and
// calls of registered constraints that judge the state the txn would leave
// behind. It happens as a whole or not at all, and every replica judges it
// alike. Each op of a txn takes one global revision.
//
// Invariants the package keeps:
//   - Applying an entry is a pure function of the state and the entry. A replica
//     that cannot judge an entry (unknown constraint version, unknown format,
//     damaged bytes) stops with ErrHalted and never guesses.
//   - A Commit happens at most once, however often it is tried: a retry gets the
//     first outcome, and one too late to be recognised is refused, not repeated.
//     A later Commit with the same RequestID is recognised among the last 32,768
//     requests of the group.
//   - A read at the zero Consistency sees every write acknowledged before it,
//     on any replica.
//   - A slow watcher is ended with ErrSlowWatcher; it is never waited for.
//   - Snapshots never stop writes: state is shared copy-on-write.
//
// What it does not do: it knows nothing of the objects stored in it, it has no
// leases or expiry, it keeps no history beyond a bounded window of recent
// events, and it does not authenticate peers: the StreamLayers given to it do.
//
// Record values and everything else a Store hands out are shared with the
// store and must not be changed.
package raftstore
