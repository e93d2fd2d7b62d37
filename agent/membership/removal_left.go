package membership

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/identity"
	"virtmesh/agent/kinds"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// The names of the steps of a removal after which there is something to do, if they were done,
// or were not.
const (
	stepBar          = "bar the host"
	stepRevoke       = "revoke the join tokens"
	stepRefuseOldKey = "refuse the old gossip key"
	stepEndTrust     = "end the trust in the CA of before"
)

// LeftOfRemoval says what a removal leaves to do when it ends, whoever waits for it: the host
// is barred and goes on to know what it knew, although the removal was cancelled.
func (m *Member) LeftOfRemoval(ctx context.Context, op *meshv1alpha1.Operation, store objects.Store) (string, error) {
	if !stepDone(op, stepBar) {
		return "", nil
	}
	host := op.Spec.Target
	var left []string
	if !stepDone(op, stepRevoke) {
		tokens, err := unusedTokens(ctx, identity.NewTokens(store))
		if err != nil {
			return "", err
		}
		if len(tokens) > 0 {
			left = append(left, fmt.Sprintf("%s may have made some of these join tokens, which can be used: %s: 'virtmesh token revoke ID' revokes one", host, nameSome(tokens)))
		}
	}
	if !stepDone(op, stepRefuseOldKey) || mustReplaceKeys(m.store.FeatureLevel()) != nil {
		left = append(left, host+" still knows the gossip key: 'virtmesh gossip rotate-key' replaces it")
	}
	if op.Spec.ReplaceCA && !stepDone(op, stepEndTrust) {
		left = append(left, host+" may have the key of the mesh's CA, which was not replaced: 'virtmesh ca rotate' does it")
	}
	made, err := m.madeBundle(ctx, host)
	if err != nil {
		return "", err
	}
	if made {
		left = append(left, fmt.Sprintf("the newest recovery bundle was made on %s, which may have a copy: make another one with 'virtmesh keyring bundle', and then replace the keys with 'virtmesh ca rotate' and 'virtmesh secrets rotate-key'", host))
	}
	secrets, err := secretNames(ctx, store)
	if err != nil {
		return "", err
	}
	if len(secrets) > 0 {
		left = append(left, fmt.Sprintf("%s could read these Secrets, change what is in them: %s", host, nameSome(secrets)))
	}
	return strings.Join(left, "; "), nil
}

// madeBundle reports whether the newest recovery bundle was made on a host. Whoever has a copy
// of the bundle, and its passphrase, opens also the keys that are made after it, until there is
// another one.
func (m *Member) madeBundle(ctx context.Context, host string) (bool, error) {
	custody, err := m.knownCustody(ctx)
	if err != nil {
		return false, fmt.Errorf("look where the newest recovery bundle was made: %w", err)
	}
	return custody.Bundle != nil && custody.Bundle.Host == host, nil
}

// stepDone reports whether a step of an operation is done.
func stepDone(op *meshv1alpha1.Operation, name string) bool {
	return slices.ContainsFunc(op.Status.Steps, func(s meshv1alpha1.OperationStep) bool {
		return s.Name == name && s.Phase == meshv1alpha1.StepDone
	})
}

// secretNames returns all Secrets as namespace/name, sorted. Their names are in the keys; what is
// in them may be encrypted.
func secretNames(ctx context.Context, store objects.Store) (names []string, err error) {
	kind := kinds.For[*corev1.Secret]()
	secrets, err := store.List(ctx, raftstore.ListRequest{Prefix: kind.Prefix()})
	if err != nil {
		return nil, err
	}
	for _, record := range secrets.Records {
		if key, ok := kind.ParseKey(record.Key); ok {
			names = append(names, key.Namespace+"/"+key.Name)
		}
	}
	return names, nil
}

// namedInMessage is how many names a message has, so that it fits into an event.
const namedInMessage = 20

// nameSome lists names in a sentence; of many, the first.
func nameSome(names []string) string {
	if more := len(names) - namedInMessage; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:namedInMessage], ", "), more)
	}
	return strings.Join(names, ", ")
}
