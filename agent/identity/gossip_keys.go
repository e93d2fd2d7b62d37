package identity

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"virtmesh/agent/fault"
	"virtmesh/raftstore"
	"virtmesh/storage/durable"
)

// GossipStage says how far the replacement of the gossip key has come.
//
//	"" -> Given -> Used -> Replaced -> Given -> ...
type GossipStage string

// The stages of a rotation. Every host follows the record, so each stage begins when the one
// before has reached every host that is on.
const (
	// GossipKeyGiven: hosts accept the new key, and encrypt with the old one.
	GossipKeyGiven GossipStage = "Given"
	// GossipKeyUsed: hosts encrypt with the new key, and accept the old one.
	GossipKeyUsed GossipStage = "Used"
	// GossipKeyReplaced: hosts refuse the old key.
	GossipKeyReplaced GossipStage = "Replaced"
)

// ErrOtherRotation is the error of a rotation after which another one has begun. That one also
// replaces the key that this one should.
var ErrOtherRotation = errors.New("another replacement of the gossip key has begun since")

// GossipRecord is the stored keyring that encrypts gossip.
type GossipRecord struct {
	GossipKeyring
	// Rotation names the last replacement of the key, and Stage says how far it is. Both are
	// empty before the first.
	Rotation string      `json:"rotation,omitempty"`
	Stage    GossipStage `json:"stage,omitempty"`
}

// GossipKeyring is a version of the keys that encrypt gossip.
type GossipKeyring struct {
	// Keys are 32 bytes each; the first encrypts.
	Keys [][]byte `json:"keys"`
	// Generation is one higher for each change of the keys.
	Generation uint64 `json:"generation,omitempty"`
}

// equal reports whether two versions are the same.
func (k GossipKeyring) equal(other GossipKeyring) bool {
	if k.Generation != other.Generation || len(k.Keys) != len(other.Keys) {
		return false
	}
	for i := range k.Keys {
		if !bytes.Equal(k.Keys[i], other.Keys[i]) {
			return false
		}
	}
	return true
}

// ReadGossip reads the keyring that encrypts gossip. It returns ErrNotSeeded as long as the
// store does not hold it.
func ReadGossip(ctx context.Context, store Store, opts raftstore.ReadOptions) (GossipRecord, error) {
	rec, _, err := readGossip(ctx, store, opts)
	return rec, err
}

func readGossip(ctx context.Context, store Store, opts raftstore.ReadOptions) (GossipRecord, raftstore.Record, error) {
	var rec GossipRecord
	stored, err := readJSON(ctx, store, KeyGossip, opts, &rec)
	if errors.Is(err, raftstore.ErrNotFound) {
		return rec, stored, ErrNotSeeded
	}
	if err == nil {
		err = ValidateGossipKeys(rec.Keys)
	}
	return rec, stored, err
}

// GiveGossipKey begins the replacement of the gossip key: it makes a new key, which the hosts
// accept from then on. It does nothing if that rotation has begun. Keys that an unfinished
// rotation left stay until the end of this one.
func GiveGossipKey(ctx context.Context, store Store, rotation string) error {
	return changeGossip(ctx, store, func(rec *GossipRecord) (bool, error) {
		if rec.Rotation == rotation {
			return false, nil
		}
		rec.Keys, rec.Rotation, rec.Stage = append(rec.Keys, newGossipKey()), rotation, GossipKeyGiven
		return true, nil
	})
}

// UseGossipKey makes the new key of a rotation the one that the hosts encrypt with. The
// caller makes sure that they have it. It does nothing if that was done.
func UseGossipKey(ctx context.Context, store Store, rotation string) error {
	return changeGossip(ctx, store, func(rec *GossipRecord) (bool, error) {
		if err := rec.mustBe(rotation); err != nil || rec.Stage != GossipKeyGiven {
			return false, err
		}
		last := len(rec.Keys) - 1
		rec.Keys, rec.Stage = append([][]byte{rec.Keys[last]}, rec.Keys[:last]...), GossipKeyUsed
		return true, nil
	})
}

// ReplaceGossipKeys makes the new key of a rotation the only one. The caller makes sure that
// the hosts encrypt with it. It does nothing if that was done.
func ReplaceGossipKeys(ctx context.Context, store Store, rotation string) error {
	return changeGossip(ctx, store, func(rec *GossipRecord) (bool, error) {
		if err := rec.mustBe(rotation); err != nil || rec.Stage == GossipKeyReplaced {
			return false, err
		}
		if rec.Stage != GossipKeyUsed {
			return false, errors.New("the hosts do not use the new gossip key yet")
		}
		rec.Keys, rec.Stage = rec.Keys[:1], GossipKeyReplaced
		return true, nil
	})
}

// mustBe returns an error if the record is that of a later rotation.
func (r GossipRecord) mustBe(rotation string) error {
	if r.Rotation == rotation {
		return nil
	}
	return fault.New(fault.Conflict, "%w", ErrOtherRotation)
}

// changeGossip changes the record. change reports whether there is anything to write.
func changeGossip(ctx context.Context, store Store, change func(*GossipRecord) (bool, error)) error {
	rec, stored, err := readGossip(ctx, store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	changed, err := change(&rec)
	if err != nil || !changed {
		return err
	}
	rec.Generation++
	op, err := rewriteOp(stored, rec)
	if err != nil {
		return err
	}
	_, err = store.Commit(ctx, raftstore.Txn{
		If: []raftstore.Condition{{Key: KeyGossip, ModRevision: stored.ModRevision}}, Ops: []raftstore.Op{op},
	})
	if err != nil {
		return fmt.Errorf("change the gossip keys: %w", err)
	}
	return nil
}

// GossipKeyring returns the version of the gossip keys that this host has.
func (i *Identity) GossipKeyring() GossipKeyring {
	i.mu.Lock()
	defer i.mu.Unlock()
	return GossipKeyring{Keys: cloneKeys(i.gossip), Generation: i.gossipGeneration}
}

// KeepGossipKeys replaces the gossip keys of this host on disk and in memory. It reports
// whether they were other ones.
func (i *Identity) KeepGossipKeys(next GossipKeyring) (changed bool, err error) {
	if err := ValidateGossipKeys(next.Keys); err != nil {
		return false, fmt.Errorf("keep gossip keys: %w", err)
	}
	if i.GossipKeyring().equal(next) {
		return false, nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	// The keys come first: if the host stops between the two writes, it has the new keys as an
	// older version, and takes them once more.
	if err := durable.WriteFile(i.path(fileGossip), encodeGossipKeys(next.Keys), 0o600); err != nil {
		return false, fmt.Errorf("keep gossip keys: %w", err)
	}
	i.gossip = cloneKeys(next.Keys)
	info := i.infoNow()
	info.GossipGeneration = next.Generation
	if err := i.writeInfo(info); err != nil {
		return true, fmt.Errorf("keep the generation of the gossip keys: %w", err)
	}
	i.gossipGeneration = next.Generation
	return true, nil
}

func newGossipKey() []byte {
	key := make([]byte, GossipKeyLen)
	rand.Read(key)
	return key
}

func cloneKeys(keys [][]byte) [][]byte {
	cloned := make([][]byte, len(keys))
	for n, key := range keys {
		cloned[n] = bytes.Clone(key)
	}
	return cloned
}
