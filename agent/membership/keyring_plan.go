package membership

import "virtmesh/agent/level"

// keyringAct is what a host does next about its keyring, which holds the private key of the
// mesh's CA.
type keyringAct int

const (
	// nothingToMove: the key is where it belongs.
	nothingToMove keyringAct = iota
	// keepKey: a voter puts the key that is in the replicated state into its keyring.
	keepKey
	// fetchKey: a voter gets the key from another host.
	fetchKey
	// nameRecipient: the leader notes for whom backups are encrypted, with a recovery bundle
	// that was made before the mesh knew how.
	nameRecipient
	// withdrawKey: the leader deletes the key from the replicated state, once every voter
	// holds it.
	withdrawKey
	// dropKey: a host that does not vote deletes its copy, once every voter holds the key.
	dropKey
	// makeNext: the leader makes the CA that is to sign next, since a replacement waits for it.
	makeNext
	// fetchNext: a voter gets the key of that CA from another one.
	fetchNext
	// dropFormer: a voter deletes the keys of CAs that the mesh has no use for any more.
	dropFormer
)

// String names the act for logs.
func (a keyringAct) String() string {
	return [...]string{"nothing", "keep the key of the CA", "fetch the key of the CA", "note for whom backups are encrypted", "withdraw the key of the CA from the mesh's state", "drop the key of the CA",
		"make the next CA", "fetch the key of the next CA", "drop the keys of former CAs"}[a]
}

// keyringView is what a host knows when it decides about its keyring.
type keyringView struct {
	// level is the mesh's feature level.
	level uint32
	// inState and bundled are as in identity.Custody.
	inState, bundled bool
	// recipient reports whether the note of the bundle names for whom backups are encrypted.
	recipient bool
	// voter, leader and held are about this host: whether it votes, leads, and holds the
	// key of the CA that signs.
	voter, leader, held bool
	// wanted reports whether a replacement waits for its next CA to be made, nextHeld whether
	// this host holds the key of the next CA, if there is one, and surplus whether it holds keys
	// that nobody has use for.
	wanted, nextHeld, surplus bool
}

// planKeyring decides what a host does about its keyring. The key leaves the state only when
// there is a recovery bundle: without one, the loss of the voters would be the loss of the
// key, and until then nothing is lost with any host.
func planKeyring(v keyringView) keyringAct {
	switch {
	case v.level < level.Keyring:
		return nothingToMove
	case v.inState && v.voter && !v.held:
		return keepKey
	case v.level >= level.Apart && v.leader && v.held && v.bundled && !v.recipient:
		return nameRecipient
	case v.inState && v.leader && v.held && v.bundled:
		return withdrawKey
	case !v.inState && v.voter && !v.held:
		return fetchKey
	case !v.inState && !v.voter && (v.held || v.surplus):
		return dropKey
	case v.inState || !v.voter || v.level < level.Succession:
		return nothingToMove
	case v.wanted && v.leader:
		return makeNext
	case !v.nextHeld:
		return fetchNext
	case v.surplus:
		return dropFormer
	}
	return nothingToMove
}
