// Package raftstore is a replicated, ordered key-value store on hashicorp/raft.
//
// Every host of the mesh opens one Store. A few replicas vote, but every replica
// holds the whole state. Reads and watches are therefore served from the local
// replica, and a write made on any host is forwarded to the leader.
//
// A write is a Txn: conditions on the revisions of keys, puts and deletes, and
// calls of registered constraints. A constraint judges the state that the txn
// would leave behind. A txn happens as a whole or not at all, and every replica
// reaches the same verdict on it. Each op of a txn takes one global revision.
//
// Invariants the package keeps:
//   - Applying an entry is a pure function of the state and the entry. A replica
//     that cannot judge an entry (unknown constraint version, unknown format,
//     damaged bytes) stops with ErrHalted and never guesses.
//   - A Commit happens at most once, however often it is retried. A retry returns
//     the outcome of the first attempt; a retry that comes too late to be
//     recognised is refused, not repeated. A later Commit with the same RequestID
//     is recognised among the last 32,768 requests of the group.
//   - A read at the zero Consistency sees every write acknowledged before it,
//     on any replica.
//   - Revisions never go back, not even when a group continues from a copy that
//     lacks the last writes: no revision is given out twice.
//   - The store never waits for a slow watcher; it ends the watch with
//     ErrSlowWatcher.
//   - Snapshots never stop writes: state is shared copy-on-write.
//
// A host can hold a Lease, renewed at the leader without a log entry. When the lease
// has run out, a Fence records that, and the host gets none again before it boots.
//
// The package does not interpret the objects stored in it, lets none of them expire,
// and keeps only a bounded window of recent events. It does not authenticate peers:
// the StreamLayers given to it do. Keys below /leases/ are its own.
//
// Record values and everything else that a Store returns are shared with the
// store. Callers must not change them.
package raftstore
