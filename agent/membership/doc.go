// Package membership makes this machine a host of a mesh and keeps it one, until
// it leaves or is removed.
//
//	prepare   Init, Join, Recover, Restore and Resync: the state before an agent runs
//	member    Member: identity, mesh port, gossip and replica of a running agent
//	replica   how a starting host finds the others and becomes a replica
//	waiting   what a host serves while it has no copy of the mesh's state
//	peers     Peers: where the other hosts are
//	admission Admission: which hosts and certificates are accepted
//	renewal   who signs this host's next certificate
//	keyring   where the key of the mesh's CA is, and moves to
//	escrow    what the newest recovery bundle gives back, and which that is
//	record    this host's record in the store
//	subnet    this host's part of the default guest network
//	leave     how this host leaves voluntarily
//	removal   how the other hosts remove one that is gone
//	status    the mesh as this host sees it
//
// # Invariants
//
// A host either belongs to a mesh or does not: Init and Join write the identity
// first and the configuration last, and delete the identity if the configuration
// cannot be written.
//
// A host whose copy of the store is empty does nothing but ask for a copy: in an
// empty store every guest looks unwanted. Only the first host of a mesh creates a
// store, and only until the store holds the mesh's CA.
//
// A host leaves only when no instance is claimed for it: its capacity is
// withdrawn before the claims are counted. It hands over leadership, vote and key
// before its record ends, because nobody believes what a host without a record signs.
// The removal of a host that is gone may
// stop after any transaction; running it again completes it.
//
// A machine that was removed is recognised by the mark of its host ID and is not
// accepted again.
package membership
