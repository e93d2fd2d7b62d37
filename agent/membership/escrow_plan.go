package membership

import "virtmesh/agent/level"

// escrowAct is what a host does next about the note of the recovery bundle and the escrow of
// the keyring, from which that bundle gives back keys that were made after it.
type escrowAct int

const (
	// nothingToEscrow: the bundle gives back all keys that are in use, or this host has no part
	// in it.
	nothingToEscrow escrowAct = iota
	// settleNote: what the state says of the newest bundle is not what the keyring of this voter
	// knows: one of the two is set right, after the other voters were asked.
	settleNote
	// forgetNote: a host that does not vote forgets the note that its keyring knows.
	forgetNote
	// putIntoEscrow: the leader encrypts the keyring for the recipient of the newest bundle.
	putIntoEscrow
)

// String names the act for logs.
func (a escrowAct) String() string {
	return [...]string{"nothing", "learn which recovery bundle is the newest", "forget the note of the recovery bundle", "put the keyring into escrow for the recovery bundle"}[a]
}

// escrowView is what a host knows when it decides about the escrow.
type escrowView struct {
	// level is the mesh's feature level.
	level uint32
	// voter and leader are about this host.
	voter, leader bool
	// known reports whether this host's keyring knows a bundle, and recipient whether that has
	// a recipient; same, whether the state's note is the one that the keyring knows.
	known, recipient, same bool
	// covered reports whether the bundle that the keyring knows, with its escrow, gives back all
	// keys that are in use.
	covered bool
	// complete reports whether this host holds all keys that are in use.
	complete bool
}

// planEscrow decides what a host does about the escrow. Who may open it is what the keyrings of
// the voters know, since any host can write the note into the state.
func planEscrow(v escrowView) escrowAct {
	switch {
	case v.level < level.Succession:
		return nothingToEscrow
	case !v.voter && v.known:
		return forgetNote
	case v.voter && !v.same:
		return settleNote
	case v.leader && v.recipient && !v.covered && v.complete:
		return putIntoEscrow
	}
	return nothingToEscrow
}
