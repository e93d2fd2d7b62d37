package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"virtmesh/raftstore"
)

// maxHostID bounds the ID in a record, which every list of the mesh's voters repeats, and
// maxHostRecord the bytes of a record, which every host reads.
const maxHostID, maxHostRecord = 256, 64 << 10

// MayChange returns raftstore.ErrForbidden for a change that another host must not make to what
// says who is a host: a host changes its own record only, and nobody the name, the ID or a kept
// key in one. A record is deleted together with the mark that its membership has ended, and made
// under a name that is free, with an ID that is new. Any other error says that this copy of the
// state cannot tell yet. from is the host, as its connection has shown it. MayChange does not
// block. Its answer holds when the change is judged, because it wants the record that it has
// judged by to be a condition of it.
//
// It does not judge what else a host says of itself: whoever goes by that checks it, and a version
// of before must not keep a newer one from writing what only that knows.
func (h *Hosts) MayChange(from string, txn raftstore.Txn) error {
	c := change{from: from, txn: txn, store: h.store, ops: map[string]raftstore.Op{}}
	for _, op := range txn.Ops {
		if !isMembershipKey(op.Key) {
			continue
		}
		if _, twice := c.ops[op.Key]; twice {
			return forbidden(op.Key, "it is changed twice")
		}
		c.ops[op.Key] = op
	}
	ended, freed, taken := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for key, op := range c.ops {
		name, ok := strings.CutPrefix(key, HostsPrefix)
		if !ok {
			continue
		}
		have, found, err := c.current(key)
		if errors.Is(err, errOutdated) {
			return nil // it is refused, or known as one that was made
		}
		if err == nil {
			err = c.mayChangeRecord(name, op, have, found)
		}
		if err != nil {
			return err
		}
		switch {
		case op.Delete:
			ended[departedKey(have.ID)], freed[expelledKey(name)] = true, true
		case !found:
			taken[expelledKey(name)] = true
		}
	}
	for key, op := range c.ops {
		switch {
		case strings.HasPrefix(key, DepartedPrefix) && (op.Delete || !ended[key]):
			return forbidden(key, "a mark is made when the record of its host is deleted, and stays")
		case strings.HasPrefix(key, ExpelledPrefix) && !(op.Delete && taken[key] || !op.Delete && freed[key]):
			return forbidden(key, "a mark comes with the end of a membership, and goes with the next one")
		}
	}
	return nil
}

// isMembershipKey reports whether a key holds what says who is a host.
func isMembershipKey(key string) bool {
	return slices.ContainsFunc([]string{HostsPrefix, DepartedPrefix, ExpelledPrefix}, func(prefix string) bool { return strings.HasPrefix(key, prefix) })
}

func forbidden(key, why string) error {
	return fmt.Errorf("%w: %s: %s", raftstore.ErrForbidden, key, why)
}

// errOutdated: a condition of the change fails for certain, since no key gets an earlier revision
// back.
var errOutdated = errors.New("a condition of the change has failed")

// change is a change to records of hosts.
type change struct {
	from  string
	txn   raftstore.Txn
	store Store
	ops   map[string]raftstore.Op // those that MayChange judges, by key
}

// judgedBy returns the record of a key as it is now, which the change must name as a condition.
func (c change) judgedBy(key string) (raftstore.Record, raftstore.Condition, error) {
	rec, revision, err := c.store.Get(context.Background(), key, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil && !errors.Is(err, raftstore.ErrNotFound) {
		return rec, raftstore.Condition{}, fmt.Errorf("read %s: %w", key, err)
	}
	i := slices.IndexFunc(c.txn.If, func(cond raftstore.Condition) bool { return cond.Key == key })
	if i < 0 {
		return rec, raftstore.Condition{}, forbidden(key, "the change does not say which record it is about")
	}
	at := c.txn.If[i]
	switch {
	case at.ModRevision > revision:
		return rec, at, fmt.Errorf("%s: the host that asks knows revision %d, and this one %d", key, at.ModRevision, revision)
	case at.ModRevision != 0 && at.ModRevision != rec.ModRevision:
		return rec, at, errOutdated
	}
	return rec, at, nil
}

// current returns the record of a host that a change is about.
func (c change) current(key string) (have HostRecord, found bool, err error) {
	rec, at, err := c.judgedBy(key)
	if err != nil {
		return have, false, err
	}
	if at.ModRevision == 0 {
		return c.none(key, rec)
	}
	if err := json.Unmarshal(rec.Value, &have); err != nil {
		return have, false, forbidden(key, "the record there cannot be read")
	}
	return have, true, nil
}

// none judges a change that is made only if there is no record. One that is there now may be about
// to be deleted, with its mark, and its ID must not come back with the next one.
func (c change) none(key string, rec raftstore.Record) (have HostRecord, found bool, err error) {
	op := c.ops[key]
	if rec.Key == "" || op.Delete || string(op.Value) == string(rec.Value) {
		return have, false, nil
	}
	var next HostRecord
	if json.Unmarshal(rec.Value, &have) == nil && json.Unmarshal(op.Value, &next) == nil && have.ID == next.ID {
		return have, false, forbidden(key, "its ID is that of a host already")
	}
	return HostRecord{}, false, nil
}

// mayChangeRecord judges the change of one record; found says whether there is one.
func (c change) mayChangeRecord(name string, op raftstore.Op, have HostRecord, found bool) error {
	if op.Delete {
		if !found {
			return forbidden(op.Key, "there is no record")
		}
		return c.mayEnd(name, have)
	}
	var next HostRecord
	err := json.Unmarshal(op.Value, &next)
	switch {
	case err != nil:
		return forbidden(op.Key, "no host could read the record: "+err.Error())
	case len(op.Value) > maxHostRecord:
		return forbidden(op.Key, fmt.Sprintf("the record has %d bytes, and at most %d are allowed", len(op.Value), maxHostRecord))
	case next.Name != name || next.ID == "" || len(next.ID) > maxHostID:
		return forbidden(op.Key, "the record names another host, or no ID")
	case next.KeyKept && !isPin(next.KeyPin):
		return forbidden(op.Key, "the record names no key")
	case !found:
		return c.mayMake(op.Key, next)
	case name != c.from:
		return forbidden(op.Key, "the record is "+name+"'s own to change, and "+c.from+" asks")
	case next.ID != have.ID || have.KeyKept && (!next.KeyKept || next.KeyPin != have.KeyPin):
		return forbidden(op.Key, "a host keeps its ID and its key")
	}
	return nil
}

func isPin(text string) bool {
	_, err := ParsePin(text)
	return err == nil
}

// mayMake judges a new record. Any host admits machines.
func (c change) mayMake(key string, next HostRecord) error {
	if err := c.mustBeHost(key); err != nil {
		return err
	}
	local := raftstore.ReadOptions{Consistency: raftstore.Local}
	hosts, err := NewHosts(c.store).List(context.Background(), local)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(hosts, func(other HostRecord) bool { return other.ID == next.ID && other.Name != next.Name }) {
		return forbidden(key, "its ID is that of a host already")
	}
	_, _, err = c.store.Get(context.Background(), departedKey(next.ID), local)
	switch {
	case err == nil:
		return forbidden(key, "its ID is that of a host that has left")
	case !errors.Is(err, raftstore.ErrNotFound):
		return fmt.Errorf("read %s: %w", departedKey(next.ID), err)
	}
	return nil
}

// mustBeHost returns an error unless the machine that asks for a change of key has a record. A
// machine knows that it was admitted only after the leader has made its record, so without one it
// is no host any more.
func (c change) mustBeHost(key string) error {
	local := raftstore.ReadOptions{Consistency: raftstore.Local}
	_, _, err := c.store.Get(context.Background(), HostKey(c.from), local)
	switch {
	case errors.Is(err, raftstore.ErrNotFound):
		return forbidden(key, c.from+", which asks, has no record: it has left the mesh, or was removed")
	case err != nil:
		return fmt.Errorf("read the record of %s, which asks for the change of %s: %w", c.from, key, err)
	}
	return nil
}

// mayEnd judges the end of a membership. A host may leave by itself; others expel it.
func (c change) mayEnd(name string, have HostRecord) error {
	var mark departure
	put, ok := c.ops[departedKey(have.ID)]
	_, expelled := c.ops[expelledKey(name)]
	switch {
	case !ok || put.Delete || json.Unmarshal(put.Value, &mark) != nil || mark.Host != name || have.KeyKept && mark.KeyPin != have.KeyPin:
		return forbidden(HostKey(name), "a record is deleted together with the mark of its host")
	case name != c.from && (!mark.Expelled || !expelled):
		return forbidden(HostKey(name), "a host leaves by itself; others expel it")
	case name != c.from:
		return c.mustBeHost(HostKey(name))
	}
	return nil
}
