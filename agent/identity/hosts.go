package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/hostname"
	"virtmesh/raftstore"
)

// expelledFault is the error for a machine that is no longer a host of the mesh: it was
// removed by force, or it left and another machine has its name now.
func expelledFault(node Node) error {
	return fault.New(fault.Expelled, "%w: it was %s", fault.Expelled, node).About(node.Name).
		WithRemedy("to use it again, stop its agent, run 'virtmesh agent leave --local --yes' on it, and join it with a new token")
}

// unknownFault is the error for a machine that the mesh has no record of.
func unknownFault(node Node) error {
	return fault.New(fault.NoHost, "%w: it has no record of %s, which left, or joined after the backup was made that the mesh was restored from", fault.NoHost, node).About(node.Name).
		WithRemedy("to use it in this mesh, copy what is needed from its guests, stop its agent, run 'virtmesh agent leave --local --yes' on it, and join it with a new token")
}

// departure is the stored mark of a membership that has ended.
type departure struct {
	Host string    `json:"host"`
	At   time.Time `json:"at"`
	// Expelled is true if the host was removed without being asked to leave.
	Expelled bool `json:"expelled,omitempty"`
	// KeyPin is the pin of the key that the host had and kept; empty if that is not known.
	KeyPin string `json:"keyPin,omitempty"`
}

// Hosts reads and removes the records of the mesh's members, and judges who is one.
type Hosts struct {
	store Store
	known knownKeys
}

// NewHosts returns the member records in a store.
func NewHosts(store Store) *Hosts { return &Hosts{store: store} }

// Get returns the record of a host, or fault.NoHost.
func (h *Hosts) Get(ctx context.Context, host string, opts raftstore.ReadOptions) (HostRecord, error) {
	rec, _, err := h.getRecord(ctx, host, opts)
	return rec, err
}

func (h *Hosts) getRecord(ctx context.Context, host string, opts raftstore.ReadOptions) (HostRecord, raftstore.Record, error) {
	if err := hostname.Validate(host); err != nil {
		return HostRecord{}, raftstore.Record{}, err
	}
	var rec HostRecord
	stored, err := readJSON(ctx, h.store, HostKey(host), opts, &rec)
	if errors.Is(err, raftstore.ErrNotFound) {
		return HostRecord{}, raftstore.Record{}, fmt.Errorf("host %s: %w", host, fault.NoHost)
	}
	return rec, stored, err
}

// List returns the records of all members in the order of their names.
func (h *Hosts) List(ctx context.Context, opts raftstore.ReadOptions) ([]HostRecord, error) {
	res, err := h.store.List(ctx, raftstore.ListRequest{Prefix: HostsPrefix, ReadOptions: opts})
	if err != nil {
		return nil, fmt.Errorf("list hosts: %w", err)
	}
	hosts := make([]HostRecord, 0, len(res.Records))
	for _, r := range res.Records {
		var rec HostRecord
		if err := json.Unmarshal(r.Value, &rec); err != nil {
			return nil, fmt.Errorf("list hosts: %s: %w", r.Key, err)
		}
		hosts = append(hosts, rec)
	}
	return hosts, nil
}

// Update changes the record of a host, for example when its address changed. change may
// be called more than once; it cannot change the name, the ID or a key that is kept. Update returns
// fault.Expelled if the record belongs to another machine.
func (h *Hosts) Update(ctx context.Context, node Node, change func(*HostRecord)) error {
	var conflict *raftstore.ConflictError
	for attempt := 1; ; attempt++ {
		err := h.updateOnce(ctx, node, change)
		if err == nil {
			return nil
		}
		if !errors.As(err, &conflict) || attempt == admitAttempts {
			return fmt.Errorf("update host %s: %w", node.Name, err)
		}
	}
}

func (h *Hosts) updateOnce(ctx context.Context, node Node, change func(*HostRecord)) error {
	rec, stored, err := h.getRecord(ctx, node.Name, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	if rec.ID != node.ID {
		return expelledFault(node)
	}
	before := rec
	change(&rec)
	rec.Name, rec.ID = node.Name, node.ID
	if before.KeyKept {
		rec.KeyPin, rec.KeyKept = before.KeyPin, true
	}
	if err := rec.Validate(); err != nil {
		return err
	}
	op, err := rewriteOp(stored, rec)
	if err != nil {
		return err
	}
	_, err = h.store.Commit(ctx, raftstore.Txn{
		If:  []raftstore.Condition{{Key: op.Key, ModRevision: stored.ModRevision}},
		Ops: []raftstore.Op{op},
	})
	return err
}

// Remove deletes the record of a host that leaves voluntarily; it returns fault.NoHost
// if there is none. From then on no host renews its certificate, and its name is free.
// Other hosts may still talk to it while it finishes leaving, until another machine
// takes its name.
func (h *Hosts) Remove(ctx context.Context, host string) error {
	return h.removeHost(ctx, host, "", departure{})
}

// Expel removes a host that cannot be asked to leave, and bars the machine for good: if
// it comes back, Admit refuses it on every host although its certificate is still
// valid. Another machine, or the same one after its state was deleted, may join under
// the name.
func (h *Hosts) Expel(ctx context.Context, host string) error {
	return h.removeHost(ctx, host, "", departure{Expelled: true})
}

// ExpelMachine is Expel for the machine with the ID. It returns a fault.Conflict if
// another machine has the name now.
func (h *Hosts) ExpelMachine(ctx context.Context, host, id string) error {
	return h.removeHost(ctx, host, id, departure{Expelled: true})
}

// removeHost deletes the record of a host and marks its ID in the same transaction. So
// a replica that has a record with a new ID also has the mark of the old one. If id is
// not empty, the host must still be the machine with that ID.
func (h *Hosts) removeHost(ctx context.Context, host, id string, mark departure) error {
	rec, stored, err := h.getRecord(ctx, host, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	if id != "" && rec.ID != id {
		return fault.New(fault.Conflict, "another machine has joined as %s", host).About(host)
	}
	mark.Host, mark.At = host, time.Now().UTC()
	if rec.KeyKept {
		mark.KeyPin = rec.KeyPin
	}
	departed, err := putOp(departedKey(rec.ID), mark)
	if err != nil {
		return err
	}
	ops := []raftstore.Op{{Key: HostKey(host), Delete: true}, departed}
	if mark.Expelled {
		expelled, err := putOp(expelledKey(host), mark)
		if err != nil {
			return err
		}
		ops = append(ops, expelled)
	}
	_, err = h.store.Commit(ctx, raftstore.Txn{
		If:  []raftstore.Condition{{Key: HostKey(host), ModRevision: stored.ModRevision}},
		Ops: ops,
	})
	if err != nil {
		return fmt.Errorf("remove host %s: %w", host, err)
	}
	return nil
}

// Expelled reports whether a host was expelled and has not joined again.
func (h *Hosts) Expelled(ctx context.Context, host string) (bool, error) {
	_, _, err := h.store.Get(ctx, expelledKey(host), raftstore.ReadOptions{})
	if errors.Is(err, raftstore.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("check whether host %s was expelled: %w", host, err)
	}
	return true, nil
}
