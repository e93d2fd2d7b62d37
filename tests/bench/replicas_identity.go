package main

import (
	"fmt"
	"time"

	"virtmesh/agent/identity"
)

// makeIdentities makes a mesh and the identities of n hosts of it, in the directories of
// their replicas. Replicas sign what they say of their state, as hosts do.
func makeIdentities(dir string, peers []memberPlaces) error {
	ca, err := identity.NewCA("bench")
	if err != nil {
		return fmt.Errorf("make the CA of the hosts: %w", err)
	}
	for i, p := range peers {
		if err := makeIdentity(ca, dirOf(dir, i), identity.NewNode(memberName(i)), p.Raft); err != nil {
			return fmt.Errorf("make the identity of %s: %w", memberName(i), err)
		}
	}
	return nil
}

func makeIdentity(ca *identity.CA, dir string, node identity.Node, address string) error {
	key, err := identity.NewKey()
	if err != nil {
		return err
	}
	text, err := identity.EncodeKey(key)
	if err != nil {
		return err
	}
	chain, err := ca.IssueNode(&key.PublicKey, node, identity.NodeSANs(address, nil), identity.DefaultNodeLifetime)
	if err != nil {
		return err
	}
	return identity.CreateState(dir, identity.State{
		Info: identity.Info{
			MeshID: "bench", Host: node.Name, HostID: node.ID, MeshAddress: address, GossipAddress: address, Joined: time.Now(),
		},
		Chain: chain, Key: text, CABundle: ca.CertificatePEM(), GossipKeys: [][]byte{make([]byte, identity.GossipKeyLen)},
	})
}

// openNotary returns what the replica in a directory signs with. All hosts stay members.
func openNotary(dir string) (*identity.Notary, error) {
	id, err := identity.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the identity of a replica: %w", err)
	}
	return identity.NewNotary(id, func(identity.Node, identity.Pin) error { return nil }), nil
}
