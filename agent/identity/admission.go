package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"virtmesh/agent/fault"
	"virtmesh/raftstore"
)

// ErrOtherKey is the error for a certificate of the mesh whose key is not the one that its
// host has. Who has the CA's key can make such a certificate, and nobody takes it.
var ErrOtherKey = errors.New("it shows another key than the host has")

// ErrUnrecorded is the error for an ID of which the local replica has neither a record nor
// a mark. It may be newer than the replica.
var ErrUnrecorded = errors.New("this host's copy of the mesh's state knows no such host")

func otherKeyFault(node Node) error {
	return fault.New(fault.Forbidden, "%s: %w", node, ErrOtherKey).About(node.Name).
		WithRemedy("if the host itself is refused, its state directory holds an older identity folder: put the newer one back; " +
			"or run 'virtmesh agent leave --local --yes' there, remove the host with 'virtmesh node remove " + node.Name + "', and join it with a new token")
}

// CheckKey returns ErrOtherKey for a key that is not the one that the host keeps.
func (r HostRecord) CheckKey(key Pin) error {
	if r.KeyKept && r.KeyPin != key.String() {
		return otherKeyFault(r.Node())
	}
	return nil
}

// hostKey is a record and what it says of its host: name, ID and key.
type hostKey struct {
	value []byte // of the record
	host  HostRecord
}

// knownKeys keeps what was read from the records: every handshake and every request of a
// host asks for it. It has no more entries than there are records, and the ones that were
// deleted since somebody last asked for them.
type knownKeys struct {
	mu     sync.Mutex
	byName map[string]hostKey
}

// maxKnownKeys bounds the entries: more than a mesh has hosts.
const maxKnownKeys = 4096

func (k *knownKeys) of(rec raftstore.Record, name string) (HostRecord, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if known, ok := k.byName[name]; ok && bytes.Equal(known.value, rec.Value) {
		return known.host, nil
	}
	var host HostRecord
	if err := json.Unmarshal(rec.Value, &host); err != nil {
		return HostRecord{}, fmt.Errorf("read %s: %w", rec.Key, err)
	}
	known := hostKey{rec.Value, HostRecord{Name: host.Name, ID: host.ID, KeyPin: host.KeyPin, KeyKept: host.KeyKept}}
	if k.byName == nil || len(k.byName) >= maxKnownKeys {
		k.byName = map[string]hostKey{}
	}
	k.byName[name] = known
	return known.host, nil
}

// forgetKey drops what was read of a host, which has no record any more.
func (k *knownKeys) forgetKey(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.byName, name)
}

// keyOf returns the name, ID and key in the record that the local replica has of a host, or
// raftstore.ErrNotFound.
func (h *Hosts) keyOf(name string) (HostRecord, error) {
	rec, _, err := h.store.Get(context.Background(), HostKey(name), raftstore.ReadOptions{Consistency: raftstore.Local})
	if errors.Is(err, raftstore.ErrNotFound) {
		h.known.forgetKey(name)
	}
	if err != nil {
		return HostRecord{}, err
	}
	return h.known.of(rec, name)
}

// Admit returns an error for a machine that is no host, according to the local replica.
// That is fault.Expelled if it was expelled, or if its name belongs to another machine now,
// ErrOtherKey if it does not have the key of the host that it says it is, and ErrUnrecorded
// if the replica knows nothing of it. Admit does not block.
//
// A machine without a record is not always to be refused. A replica that lags may have the
// record of the previous machine, or none. If it refused the new machine, and that machine
// led the Raft group, the replica could never catch up. The mark of an ID is set in the
// transaction that deletes its record, so an ID that has a record bears none.
func (h *Hosts) Admit(node Node, key Pin) error {
	have, err := h.keyOf(node.Name)
	switch {
	case err == nil && have.ID == node.ID:
		return have.CheckKey(key)
	case err != nil && !errors.Is(err, raftstore.ErrNotFound):
		return fmt.Errorf("read the record of host %s: %w", node.Name, err)
	}
	free := err != nil
	gone, mark, err := h.departed(context.Background(), node, raftstore.ReadOptions{Consistency: raftstore.Local})
	switch {
	case err != nil:
		return err
	case !gone:
		return fmt.Errorf("%s: %w", node, ErrUnrecorded)
	case mark.Expelled || !free:
		return expelledFault(node)
	}
	// It has not finished leaving.
	return HostRecord{Name: node.Name, ID: node.ID, KeyPin: mark.KeyPin, KeyKept: mark.KeyPin != ""}.CheckKey(key)
}

// departed reports whether a membership has ended, and returns the mark.
func (h *Hosts) departed(ctx context.Context, node Node, opts raftstore.ReadOptions) (gone bool, mark departure, err error) {
	_, err = readJSON(ctx, h.store, departedKey(node.ID), opts, &mark)
	if errors.Is(err, raftstore.ErrNotFound) {
		return false, mark, nil
	}
	return err == nil, mark, err
}

var (
	errNoMember     = errors.New("its membership has ended")
	errOtherMachine = errors.New("by this host's copy of the mesh's state, another machine that keeps its key has that name")
)

// StillMember returns an error for a machine whose membership has ended, also if it left
// voluntarily, or that does not have its host's key, according to the local replica. Unlike
// Admit, it does not let it finish leaving, and what it says of a machine under the name of a
// host with another ID is final if that host keeps its key: the copy may lag behind, but then
// others sign too, and the voters of the copy are not to be impersonated.
func (h *Hosts) StillMember(node Node, key Pin) error {
	have, err := h.keyOf(node.Name)
	switch {
	case err == nil && have.ID == node.ID:
		return have.CheckKey(key)
	case err != nil && !errors.Is(err, raftstore.ErrNotFound):
		return fmt.Errorf("read the record of host %s: %w", node.Name, err)
	}
	gone, _, err := h.departed(context.Background(), node, raftstore.ReadOptions{Consistency: raftstore.Local})
	switch {
	case err != nil:
		return err
	case gone:
		return errNoMember
	case have.KeyKept:
		return fmt.Errorf("%s: %w", node, errOtherMachine)
	}
	return fmt.Errorf("%s: %w", node, ErrUnrecorded)
}
