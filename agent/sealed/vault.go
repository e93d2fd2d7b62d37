package sealed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	"virtmesh/agent/kinds"
	"virtmesh/raftstore"
)

// MaxLocks is how many locks a host asks for in one call.
const MaxLocks = 100

// keptDataKeys is how many data keys a host remembers: enough for the Secrets that its users
// read again and again. A data key is that of one write, so one that is remembered opens
// nothing that is written later.
const keptDataKeys = 1024

// Recipient is what a host seals with, and for how long.
type Recipient struct {
	// Key seals; the zero value: nothing is sealed yet.
	Key PublicKey
	// Kinds names the kinds that are sealed because the mesh's configuration says so.
	Kinds []string
	// While holds as long as Key is the right one.
	While raftstore.Condition
}

// Config is what a Vault needs.
type Config struct {
	// Recipient returns what is sealed with now, by this host's copy of the state. With an error
	// that concerns the key alone it returns the rest.
	Recipient func(ctx context.Context) (Recipient, error)
	// Held returns a private key that this host holds.
	Held func(id string) (PrivateKey, bool)
	// Ask asks a voter for the data keys of at most MaxLocks locks. One is nil if nobody can
	// open its lock any more.
	Ask func(ctx context.Context, locks []Lock) ([][]byte, error)
}

// Seals reports whether objects of a kind are sealed when they are written.
func (r Recipient) Seals(kind *kinds.Kind) bool {
	return len(kind.Sealed) > 0 && (!kind.SealedIfNamed || slices.Contains(r.Kinds, kind.GVK.Kind))
}

// Vault seals and opens the values of one host; it implements objects.Transformer. It is safe
// for concurrent use.
type Vault struct {
	cfg    Config
	kinds  []*kinds.Kind // that can be sealed
	opened *lru.Cache[string, []byte]
}

// NewVault returns a Vault.
func NewVault(cfg Config) (*Vault, error) {
	opened, err := lru.New[string, []byte](keptDataKeys)
	if err != nil {
		return nil, err
	}
	return &Vault{cfg: cfg, kinds: Kinds(), opened: opened}, nil
}

// Kinds returns the kinds whose objects can be sealed.
func Kinds() (can []*kinds.Kind) {
	for _, kind := range kinds.All() {
		if len(kind.Sealed) > 0 {
			can = append(can, kind)
		}
	}
	return can
}

// Touches reports whether a value whose store key begins with prefix may be sealed.
func (v *Vault) Touches(prefix string) bool {
	for _, kind := range v.kinds {
		if of := kind.Prefix(); strings.HasPrefix(of, prefix) || strings.HasPrefix(prefix, of) {
			return true
		}
	}
	return false
}

// Seal returns the value to store for a plain one, and the condition under which it may be
// stored: that no other key seals by now, nor other kinds are sealed. It does not block on the network.
func (v *Vault) Seal(ctx context.Context, storeKey string, plain []byte) ([]byte, raftstore.Condition, error) {
	kind, _, ok := kinds.ParseStoreKey(storeKey)
	if !ok || len(kind.Sealed) == 0 || IsSealed(plain) {
		return plain, raftstore.Condition{}, nil
	}
	with, err := v.cfg.Recipient(ctx)
	known := err == nil || with.While.Key != ""
	if known && !with.Seals(kind) {
		return plain, with.While, nil
	}
	if err != nil {
		return nil, with.While, err // and never in clear
	}
	if with.Key.key == nil {
		return plain, with.While, nil
	}
	stored, lock, dataKey, err := sealValue(with.Key, storeKey, plain, kind.Sealed)
	if err != nil {
		return nil, with.While, err
	}
	v.opened.Add(string(lock.Wrapped), dataKey)
	return stored, with.While, nil
}

// IsCurrent reports whether a stored value is as Seal would store it now.
func (v *Vault) IsCurrent(with Recipient, rec raftstore.Record) (bool, error) {
	kind, _, ok := kinds.ParseStoreKey(rec.Key)
	if !ok || len(kind.Sealed) == 0 {
		return true, nil
	}
	if !IsSealed(rec.Value) {
		return !with.Seals(kind), nil
	}
	p, err := parseSealed(rec.Key, rec.Value)
	return with.Seals(kind) && p.lock.Key == with.Key.ID(), err
}

// KeyOf returns the name of the key that a stored value is sealed with; empty if it is not.
func KeyOf(rec raftstore.Record) string {
	if !IsSealed(rec.Value) {
		return ""
	}
	p, err := parseSealed(rec.Key, rec.Value)
	if err != nil {
		return ""
	}
	return p.lock.Key
}

// Open returns the plain values of records, nil for one that nobody can open. An error means
// that nobody who could open them answers. It may block on the network until ctx ends.
func (v *Vault) Open(ctx context.Context, records []raftstore.Record) ([][]byte, error) {
	values := make([][]byte, len(records))
	var waiting []opening
	for i, rec := range records {
		if !IsSealed(rec.Value) {
			values[i] = rec.Value
			continue
		}
		p, err := parseSealed(rec.Key, rec.Value)
		if err != nil {
			continue // nobody can open it
		}
		if dataKey, final := v.dataKey(p.lock); dataKey != nil {
			values[i] = openOrNil(p, dataKey)
		} else if !final {
			waiting = append(waiting, opening{i, p})
		}
	}
	for len(waiting) > 0 {
		now := waiting[:min(len(waiting), MaxLocks)]
		waiting = waiting[len(now):]
		if err := v.ask(ctx, now, values); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// opening is a value that waits for its data key.
type opening struct {
	place int
	parsed
}

// dataKey returns the data key of a lock without asking anybody; nil if it cannot. final says
// that nobody else can either.
func (v *Vault) dataKey(lock Lock) (dataKey []byte, final bool) {
	if have, ok := v.opened.Get(string(lock.Wrapped)); ok {
		return have, true
	}
	key, ok := v.cfg.Held(lock.Key)
	if !ok {
		return nil, false
	}
	dataKey, err := key.Unlock(lock)
	if err != nil {
		return nil, true
	}
	v.opened.Add(string(lock.Wrapped), dataKey)
	return dataKey, true
}

func (v *Vault) ask(ctx context.Context, waiting []opening, values [][]byte) error {
	locks := make([]Lock, len(waiting))
	for i, w := range waiting {
		locks[i] = w.lock
	}
	dataKeys, err := v.cfg.Ask(ctx, locks)
	if err != nil {
		return fmt.Errorf("ask for the keys of what is encrypted: %w", err)
	}
	if len(dataKeys) != len(locks) {
		return errors.New("ask for the keys of what is encrypted: the answer is of another length")
	}
	for i, w := range waiting {
		if dataKeys[i] == nil {
			continue
		}
		if values[w.place] = openOrNil(w.parsed, dataKeys[i]); values[w.place] != nil {
			v.opened.Add(string(w.lock.Wrapped), dataKeys[i])
		}
	}
	return nil
}

// openOrNil opens a value; nil if the content does not belong to the data key.
func openOrNil(p parsed, dataKey []byte) []byte {
	value, err := p.open(dataKey)
	if err != nil {
		return nil
	}
	return value
}
