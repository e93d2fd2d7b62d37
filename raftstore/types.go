package raftstore

import (
	"fmt"
	"time"
)

// Record is a key with its value and the revisions that created and last
// changed it. Value is shared with the store and must not be changed.
type Record struct {
	Key            string
	Value          []byte
	CreateRevision uint64
	ModRevision    uint64
	// kept is the value as the store keeps it, if the record comes from a store.
	kept packed
}

// Compact returns the record in the form in which a cache should keep it: if the store
// holds its value packed, Value is nil, and the record shares the store's memory. Expand
// returns the whole record.
func (r Record) Compact() Record {
	if r.kept.model != nil {
		r.Value = nil
	}
	return r
}

// Expand is the inverse of Compact.
func (r Record) Expand() Record {
	if r.kept.model != nil && r.Value == nil {
		r.Value = r.kept.value()
	}
	return r
}

// ReadValue returns the value, unpacked into buf if it is packed and buf has room for it,
// and the memory to pass to the next call. The value may share the store's memory and must
// not be changed; it is valid until the next call with that buf.
func (r Record) ReadValue(buf []byte) (value, next []byte) {
	if r.kept.model == nil || r.Value != nil {
		return r.Value, buf
	}
	value = r.kept.read(buf[:0])
	return value, value
}

// Size returns the length of the value, without unpacking it.
func (r Record) Size() int {
	if r.kept.model == nil || r.Value != nil {
		return len(r.Value)
	}
	return r.kept.size()
}

// WithValue returns the record with another value, for whoever transforms values on
// their way from the store.
func (r Record) WithValue(value []byte) Record {
	r.Value, r.kept = value, packed{}
	return r
}

// Condition requires that, when the txn is judged, Key was last changed at
// ModRevision. A ModRevision of zero requires that the key does not exist.
type Condition struct {
	Key         string
	ModRevision uint64
}

// Op puts Value at Key, or deletes Key if Delete is set. Deleting a key that does
// not exist takes a revision but causes no event.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
}

// ConstraintCall names a registered Constraint, the version of it that must
// judge the txn, and the arguments passed to it.
type ConstraintCall struct {
	Name    string
	Version uint32
	Args    []byte
}

// Txn is an atomic change. Conditions are judged on the state before the ops,
// constraints on the state after them. If one of them refuses, nothing changes.
// Ops on the same key are carried out in order. A txn without ops only checks its
// conditions and constraints.
type Txn struct {
	// RequestID makes retries safe: a txn with the RequestID of an earlier txn
	// gets the outcome of the earlier one, if that is among the last 32,768
	// requests of the group. If RequestID is empty, Commit generates one, which
	// covers only the retries within that Commit. At most MaxRequestIDLen bytes.
	RequestID   string
	If          []Condition
	Ops         []Op
	Constraints []ConstraintCall
}

// TxnResult says which revisions a txn took.
type TxnResult struct {
	// Revision is the revision of the last op, or of the store for a txn without
	// ops.
	Revision uint64
	// OpRevisions holds the ModRevision of each op.
	OpRevisions []uint64
}

// View is the state a Constraint judges. Records are shared and must not be
// changed.
type View interface {
	// Get returns the record at key.
	Get(key string) (Record, bool)
	// Ascend calls fn for every record below prefix in key order until fn
	// returns false.
	Ascend(prefix string, fn func(Record) bool)
}

// Constraint is a rule that the state machine applies on every replica. Check
// must be pure: no clock, no randomness, no I/O, no map order; its result must
// depend on nothing but its arguments. To change a rule, register it under a new
// Version and keep the old version registered as long as a log may call it.
type Constraint struct {
	Name    string
	Version uint32
	// FeatureLevel is the lowest feature level whose replicas know this constraint; zero
	// means all do. The leader refuses txns that call the constraint while the group is
	// below that level, so that an upgrade never halts a replica.
	FeatureLevel uint32
	// Check judges the state after the ops of t. A non-nil error refuses t.
	Check func(v View, t *Txn, args []byte) error
}

// Consistency says which acknowledged writes a read may miss.
type Consistency uint8

const (
	// Linearizable reads see every write acknowledged before they began. They
	// cost one round trip to the leader and the voters, shared by all waiting
	// readers.
	Linearizable Consistency = iota
	// Local reads see what this replica has applied. They need no other replica.
	Local
	// Bounded reads see every write acknowledged more than MaxStaleness ago.
	Bounded
)

// String returns the consistency's name.
func (c Consistency) String() string {
	switch c {
	case Linearizable:
		return "linearizable"
	case Local:
		return "local"
	case Bounded:
		return "bounded"
	default:
		return fmt.Sprintf("Consistency(%d)", uint8(c))
	}
}

// ReadOptions say how fresh a read must be. The zero value is linearizable.
type ReadOptions struct {
	Consistency Consistency
	// MaxStaleness bounds a Bounded read.
	MaxStaleness time.Duration
	// MinRevision makes the read wait until the replica has reached it, and fail
	// with ErrFutureRevision if the store as a whole has not.
	MinRevision uint64
}

// ListRequest asks for the records below Prefix in key order.
type ListRequest struct {
	Prefix string
	// After is the key after which the list begins.
	After string
	// Limit is the most records to return; zero means all.
	Limit int
	// Revision asks for the state at an earlier revision; zero means the current
	// state. A revision in the middle of a txn stands for the end of that txn.
	Revision uint64
	// UnchangedSince leaves out the records that were changed after this revision; zero
	// leaves out none. The values left out cost nothing, but with Limit every page walks
	// over all records behind it to count those that remain.
	UnchangedSince uint64
	// Compact leaves the values packed: the caller expands the records one by one, see
	// Record.Compact.
	Compact bool
	ReadOptions
}

// ListResult is the answer to a ListRequest.
type ListResult struct {
	Records []Record
	// Revision is the revision of the state that the list shows. A Watch from this
	// revision continues the list.
	Revision uint64
	// More is true if Limit cut the list short; Remaining counts the records left
	// out.
	More      bool
	Remaining int64
}

// EventType says what an Event reports.
type EventType uint8

const (
	// Put reports that a record was created or changed.
	Put EventType = iota + 1
	// Delete reports that a record was deleted. Event.Record holds its key and the
	// revision of the deletion.
	Delete
	// Bookmark reports that every event up to Event.Revision has been delivered.
	Bookmark
)

// String returns the event type's name.
func (e EventType) String() string {
	switch e {
	case Put:
		return "put"
	case Delete:
		return "delete"
	case Bookmark:
		return "bookmark"
	default:
		return fmt.Sprintf("EventType(%d)", uint8(e))
	}
}

// Event is one change. A watch delivers events in the order of revisions.
type Event struct {
	Type   EventType
	Record Record
	// Prev is the record before the change, nil if there was none.
	Prev     *Record
	Revision uint64
}

// WatchRequest asks for the changes below Prefix.
type WatchRequest struct {
	Prefix string
	// Revision is the last revision the caller has seen: the watch delivers the
	// events after it. Zero starts the watch at the current revision.
	Revision uint64
	// Bookmarks is the interval between Bookmark events; zero means none.
	Bookmarks time.Duration
	// Compact leaves the values packed, see Record.Compact.
	Compact bool
}

// MemberHealth is what the caller's membership layer knows about a host.
type MemberHealth struct {
	ID    string
	Addr  string
	Zone  string
	Alive bool
}
