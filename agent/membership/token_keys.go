package membership

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	"virtmesh/agent/bearer"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/raftstore"
)

// tokenKeysAct is what the leader did about the keys that judge the tokens of service accounts.
type tokenKeysAct int

const (
	// noTokenKeys: the record is as it should be.
	noTokenKeys tokenKeysAct = iota
	// publishTokenKeys: the leader has changed it.
	publishTokenKeys
)

// String names the act for logs.
func (a tokenKeysAct) String() string {
	return [...]string{"nothing", "publish the keys that judge tokens of service accounts"}[a]
}

// tokenKeysKeeper keeps the record of the keys that judge the tokens of service accounts in step
// with the keys for Secrets, which the keys that sign are made from.
type tokenKeysKeeper struct {
	keyringKeeper
}

func (m *Member) tokenKeysKeeper() tokenKeysKeeper { return tokenKeysKeeper{m.keyringKeeper()} }

// step lets the leader publish the keys that follow from the keys for Secrets.
func (k tokenKeysKeeper) step(ctx context.Context) (tokenKeysAct, error) {
	if k.level() < level.Access || !k.leads() {
		return noTokenKeys, nil
	}
	secrets, from, err := identity.ReadSecretKeys(ctx, k.store, localRead)
	if err != nil {
		return noTokenKeys, err
	}
	have, stored, err := identity.ReadTokenKeys(ctx, k.store, localRead)
	if err != nil {
		return noTokenKeys, err
	}
	wanted, err := k.wanted(secrets, have)
	if err != nil || reflect.DeepEqual(wanted, have.Keys) {
		return noTokenKeys, err
	}
	while := raftstore.Condition{Key: from.Key, ModRevision: from.ModRevision}
	return publishTokenKeys, identity.StoreTokenKeys(ctx, k.store, stored, bearer.KeysRecord{Keys: wanted}, while)
}

// wanted returns the keys that the record should have. The first is that of the active key for
// Secrets, which every voter has. That of the one that waits follows, so that all hosts know it
// before it is used; where nothing is encrypted yet, it is the only one. A key for Secrets that
// was replaced has none: who replaces it because somebody knows it ends what he can sign, too.
func (k tokenKeysKeeper) wanted(secrets identity.SecretKeysRecord, have bearer.KeysRecord) ([]bearer.PublicKey, error) {
	var wanted []bearer.PublicKey
	for _, id := range []string{secrets.Active, secrets.Pending()} {
		if id == "" {
			continue
		}
		if held, ok := k.identity.SecretKey(id); ok {
			key, err := bearer.DeriveKey(held)
			if err != nil {
				return nil, err
			}
			wanted = append(wanted, key.Public())
			continue
		}
		// The leader may be a voter that has just become one, and the others go on signing.
		if i := slices.IndexFunc(have.Keys, func(key bearer.PublicKey) bool { return key.SecretKey == id }); i >= 0 {
			wanted = append(wanted, have.Keys[i])
		}
	}
	return wanted, nil
}

// signingKey returns the first key of the record that this host can make.
func (k tokenKeysKeeper) signingKey(ctx context.Context) (bearer.Key, error) {
	listed, _, err := identity.ReadTokenKeys(ctx, k.store, localRead)
	if err != nil {
		return bearer.Key{}, err
	}
	for _, public := range listed.Keys {
		secret, ok := k.identity.SecretKey(public.SecretKey)
		if !ok {
			continue
		}
		key, err := bearer.DeriveKey(secret)
		if err != nil {
			return bearer.Key{}, err
		}
		if key.Public().ID == public.ID {
			return key, nil
		}
	}
	return bearer.Key{}, fmt.Errorf("%s holds no key that signs tokens of service accounts", k.self)
}
