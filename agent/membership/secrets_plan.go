package membership

import "virtmesh/agent/level"

// secretsAct is what a host does next about the keys for Secrets.
type secretsAct int

const (
	// nothingToSeal: the keys are where they belong, and what is to be encrypted is.
	nothingToSeal secretsAct = iota
	// makeSecretKey: the leader makes a key, which nothing is encrypted with yet.
	makeSecretKey
	// fetchSecretKeys: a voter gets the private keys that it lacks from another host.
	fetchSecretKeys
	// dropSecretKeys: a host deletes the private keys that it has no business with.
	dropSecretKeys
	// useSecretKey: the leader lets the new key encrypt from now on, once every voter holds it.
	useSecretKey
	// chooseKinds: the leader notes which kinds the MeshConfig names.
	chooseKinds
	// sealObjects: the leader encrypts some objects that are in clear, or encrypted with an
	// older key.
	sealObjects
)

// String names the act for logs.
func (a secretsAct) String() string {
	return [...]string{
		"nothing", "make a key for Secrets", "fetch the keys for Secrets", "drop keys for Secrets",
		"encrypt Secrets with the new key", "note which kinds are encrypted", "encrypt Secrets that are stored otherwise",
	}[a]
}

// secretsView is what a host knows when it decides about the keys for Secrets.
type secretsView struct {
	// level is the mesh's feature level.
	level uint32
	// voter and leader are about this host.
	voter, leader bool
	// listed, pending and active are about the record of the keys: it names some, one that
	// nothing is encrypted with yet, one that encrypts. rotate asks for another key.
	listed, pending, active, rotate bool
	// missing and surplus are about this host's keyring: it lacks a key of the record, or has
	// one that is not in it, also where it cannot open it.
	missing, surplus bool
	// shut reports whether this host may soon open keys that it has on its disk.
	shut bool
	// opens reports whether this host holds every key that may have encrypted something.
	opens bool
	// renamed reports whether the MeshConfig names other kinds to encrypt than the record.
	renamed bool
	// bundled reports whether a recovery bundle has all keys of the record.
	bundled bool
	// unsealed reports whether there may be objects to encrypt.
	unsealed bool
}

// planSecrets decides what a host does about the keys for Secrets. Nothing is encrypted with a
// key before a recovery bundle has it: without one, the loss of the voters would be the loss
// of the Secrets. So the private key never has to be in the replicated state.
func planSecrets(v secretsView) secretsAct {
	switch {
	case v.level < level.Apart:
		return nothingToSeal
	case !v.voter:
		if v.surplus {
			return dropSecretKeys
		}
		return nothingToSeal
	case v.missing && v.shut:
		return fetchSecretKeys // no key is made, or forgotten, because of a TPM that takes its time
	case v.leader && !v.pending && (!v.listed || v.rotate):
		return makeSecretKey
	case v.missing && !v.seals():
		return fetchSecretKeys
	case v.listed && v.surplus:
		return dropSecretKeys
	case v.leader && v.listed && v.renamed:
		return chooseKinds
	case v.seals():
		return sealObjects
	case v.leader && v.pending && v.bundled:
		return useSecretKey
	}
	return nothingToSeal
}

// seals reports whether this host has something to encrypt and all that it takes. A key that
// encrypts nothing yet, and that its maker does not hand out, is nothing to wait for.
func (v secretsView) seals() bool { return v.leader && v.active && v.unsealed && v.opens }
