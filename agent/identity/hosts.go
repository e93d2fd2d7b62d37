package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"virtmesh/raftstore"
)

// ErrNoHost is returned for a host that has no record: it never joined, or it left.
var ErrNoHost = errors.New("no such host in the mesh")

// ErrExpelled is returned for a host that was removed from the mesh by force.
var ErrExpelled = errors.New("host was removed from the mesh")

// expulsion is what the store keeps of a host that was expelled.
type expulsion struct {
	At time.Time `json:"at"`
}

// Hosts reads and removes the records of the mesh's members.
type Hosts struct{ store Store }

// NewHosts returns the member records in a store.
func NewHosts(store Store) *Hosts { return &Hosts{store: store} }

// Get returns the record of a host, or ErrNoHost.
func (h *Hosts) Get(ctx context.Context, host string, opts raftstore.ReadOptions) (HostRecord, error) {
	rec, _, err := h.get(ctx, host, opts)
	return rec, err
}

func (h *Hosts) get(ctx context.Context, host string, opts raftstore.ReadOptions) (HostRecord, uint64, error) {
	if err := ValidateHostName(host); err != nil {
		return HostRecord{}, 0, err
	}
	var rec HostRecord
	rev, err := readJSON(ctx, h.store, HostKey(host), opts, &rec)
	if errors.Is(err, raftstore.ErrNotFound) {
		return HostRecord{}, 0, fmt.Errorf("host %s: %w", host, ErrNoHost)
	}
	return rec, rev, err
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

// Update changes the record of a host, for example when it got another address. change
// may be called more than once; it cannot rename the host.
func (h *Hosts) Update(ctx context.Context, host string, change func(*HostRecord)) error {
	var conflict *raftstore.ConflictError
	for attempt := 1; ; attempt++ {
		err := h.updateOnce(ctx, host, change)
		if err == nil {
			return nil
		}
		if !errors.As(err, &conflict) || attempt == admitAttempts {
			return fmt.Errorf("update host %s: %w", host, err)
		}
	}
}

func (h *Hosts) updateOnce(ctx context.Context, host string, change func(*HostRecord)) error {
	rec, rev, err := h.get(ctx, host, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	change(&rec)
	rec.Name = host
	if err := rec.Validate(); err != nil {
		return err
	}
	op, err := putOp(HostKey(host), rec)
	if err != nil {
		return err
	}
	_, err = h.store.Commit(ctx, raftstore.Txn{
		If:  []raftstore.Condition{{Key: op.Key, ModRevision: rev}},
		Ops: []raftstore.Op{op},
	})
	return err
}

// Remove deletes the record of a host that leaves by its own will; ErrNoHost if there is
// none. From then on nobody renews the host's certificate and its name is free.
func (h *Hosts) Remove(ctx context.Context, host string) error {
	return h.remove(ctx, host, nil)
}

// Expel removes a host that cannot be asked to leave, and bars it: should it come back,
// Admit turns it away on every host, although its certificate has not ended. A host that
// joins anew under the name is welcome.
func (h *Hosts) Expel(ctx context.Context, host string) error {
	bar, err := putOp(expelledKey(host), expulsion{At: time.Now().UTC()})
	if err != nil {
		return err
	}
	return h.remove(ctx, host, []raftstore.Op{bar})
}

func (h *Hosts) remove(ctx context.Context, host string, more []raftstore.Op) error {
	_, rev, err := h.get(ctx, host, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	_, err = h.store.Commit(ctx, raftstore.Txn{
		If:  []raftstore.Condition{{Key: HostKey(host), ModRevision: rev}},
		Ops: append([]raftstore.Op{{Key: HostKey(host), Delete: true}}, more...),
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
		return false, fmt.Errorf("look whether host %s was expelled: %w", host, err)
	}
	return true, nil
}

// Admit returns ErrExpelled for a host that was expelled and has not joined again, as
// far as the local replica knows. It does not block, so it can be meshport.Config.Admit.
func (h *Hosts) Admit(host string) error {
	_, _, err := h.store.Get(context.Background(), expelledKey(host), raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		// Not there, or the replica is closed: then nothing is known against the host.
		return nil
	}
	return ErrExpelled
}
