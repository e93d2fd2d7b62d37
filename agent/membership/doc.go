// Package membership makes this machine a host of a mesh and keeps it one, until
// it leaves or is removed.
//
//	prepare   Init, Join, Recover, Restore and Resync: the state before an agent runs
//	member    Member: identity, mesh port, gossip and replica of a running agent
//	replica   how a starting host finds the others and becomes a replica
//	waiting   what a host says while it has no copy of the mesh's state
//	peers     Peers: where the other hosts are
//	admission Admission: which hosts and certificates are let in
//	renewal   who signs this host's next certificate
//	record    what the mesh has on file of this host
//	subnet    this host's part of the default guest network
//	leave     how this host goes by itself
//	removal   how the others take out one that is gone
//	status    the mesh as this host sees it
//
// # Invariants
//
// A host either belongs to a mesh or does not: Init and Join write the identity
// first and the configuration last, and undo the one if the other fails.
//
// A host whose copy of the store is empty does nothing but ask for one: in an
// empty store every guest looks unwanted. Only the first host of a mesh makes a
// store, and only until the mesh is in it.
//
// A host leaves only when no instance is claimed for it: its capacity is
// withdrawn before the claims are counted. Removing a host that is gone may stop
// after any transaction; who repeats it carries it on.
//
// A machine that was removed is not let in again, by the mark of its host ID.
package membership
