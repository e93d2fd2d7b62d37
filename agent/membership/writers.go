package membership

import (
	"fmt"
	"slices"
	"strings"

	"virtmesh/agent/claims"
	"virtmesh/agent/identity"
	"virtmesh/agent/kinds"
	"virtmesh/agent/kinds/usage"
	"virtmesh/agent/membership/succession"
	"virtmesh/raftstore"
)

// writer says which hosts may write a part of the state.
type writer int

const (
	// anyHost: each host does, for the people and programs that it serves or by its part in the
	// mesh's work. What is written is judged otherwise, if at all.
	anyHost writer = iota
	// voter: only hosts that vote do.
	voter
	// voterOrRequest: hosts that vote do, and any other host may ask for another key, see
	// identity.MayAskForSecretKey.
	voterOrRequest
	// hostItself: see identity.Hosts.MayChange.
	hostItself
)

// keyWriter says who may write a key of the state, or all keys with a prefix if it ends in a slash.
type keyWriter struct {
	key string
	by  writer
}

// keyWriters is the only list of who may write which part of the state. A key that is not in it
// is one of a newer version, and any host writes it.
func keyWriters() []keyWriter {
	return []keyWriter{
		{identity.HostsPrefix, hostItself},
		{identity.DepartedPrefix, hostItself},
		{identity.ExpelledPrefix, hostItself},

		{identity.KeyTokenKeys, voter},           // hosts believe tokens by it
		{identity.KeySecretKeys, voterOrRequest}, // hosts encrypt by it
		{identity.KeyEscrow, voter},              // a recovery goes by it
		{identity.KeyDemoted, voter},             // the mesh replaces keys by it
		{succession.Prefix, voter},               // hosts that come back read it in order

		{raftstore.LeasesPrefix, voter}, // a fence lets other hosts start the machines of its host

		{succession.NextKey, anyHost},     // counts by its signatures, also that of who has just given up its vote
		{identity.KeyCA, anyHost},         // whichever host is the steward of a rotation; hosts believe CAs by their signatures
		{identity.KeyGossip, anyHost},     // whichever host is the steward of a rotation; all hosts have these keys
		{identity.KeyBundles, anyHost},    // whichever host makes the bundle; voters go by the notes in their keyrings
		{identity.TokensPrefix, anyHost},  // the host that an administrator asks for a token, or a machine for admission
		{identity.ClientsPrefix, anyHost}, // as the next ones: the host that an administrator asks
		{identity.UsersPrefix, anyHost},
		{identity.KeyListedOnly, anyHost},
		{SubnetPrefix, anyHost},    // each host its own, and who removes a host that of the other
		{KeyGuestNetwork, anyHost}, // whichever host is the first
		{claims.Prefix, anyHost},   // judged by the rules of claims
		{kinds.Root, anyHost},      // API objects: the host that is asked has judged the request
		{usage.Prefix, anyHost},    // written with the objects that are counted
	}
}

// covers reports whether an entry is about a key.
func (w keyWriter) covers(key string) bool {
	return key == w.key || strings.HasSuffix(w.key, "/") && strings.HasPrefix(key, w.key)
}

// mayWrite returns raftstore.ErrForbidden for a change by another host of what is not that host's
// to write; any other error says that this copy of the state cannot tell yet. It does not block.
func mayWrite(store identity.Store, voters []string, from string, txn raftstore.Txn) error {
	table := keyWriters()
	for _, op := range txn.Ops {
		i := slices.IndexFunc(table, func(w keyWriter) bool { return w.covers(op.Key) })
		if i < 0 || slices.Contains(voters, from) {
			continue
		}
		switch table[i].by {
		case voter:
			return fmt.Errorf("%w: %s: %s does not vote, and only voters write it", raftstore.ErrForbidden, op.Key, from)
		case voterOrRequest:
			if err := identity.MayAskForSecretKey(store, from, txn, op); err != nil {
				return err
			}
		}
	}
	return identity.NewHosts(store).MayChange(from, txn)
}
