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
}

// Condition demands that Key was last changed at ModRevision when the txn is
// judged. Zero demands that the key does not exist.
type Condition struct {
	Key         string
	ModRevision uint64
}

// Op puts Value at Key, or deletes Key. Deleting a key that does not exist
// takes a revision and causes no event.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
}

// ConstraintCall names a registered Constraint, the version of it that must
// judge the txn, and the arguments it is given.
type ConstraintCall struct {
	Name    string
	Version uint32
	Args    []byte
}

// Txn is an atomic change. Conditions are judged on the state before the ops,
// constraints on the state after them; if any refuses, nothing changes. Ops on
// the same key are carried out in order. A txn without ops is a check.
type Txn struct {
	// RequestID makes retries safe: a txn with the RequestID of an earlier one
	// gets that one's outcome, if it is among the last 32,768 requests of the
	// group. Empty means generated, which makes the retries within one Commit
	// safe. At most MaxRequestIDLen bytes.
	RequestID   string
	If          []Condition
	Ops         []Op
	Constraints []ConstraintCall
}

// TxnResult says which revisions a txn took.
type TxnResult struct {
	// Revision is that of the last op, or of the store for a txn without ops.
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
// depend on nothing but its arguments. A rule that changes gets a new Version
// and the old one stays registered as long as a log may call it.
type Constraint struct {
	Name    string
	Version uint32
	// FeatureLevel is the lowest feature level of a member that knows this
	// constraint. The leader refuses txns that call it while a member below that
	// level is alive, so that an upgrade never stops a replica.
	FeatureLevel uint32
	// Check judges the state after the ops of t. A non-nil error refuses t.
	Check func(v View, t *Txn, args []byte) error
}

// Consistency names what a read may miss.
type Consistency uint8

const (
	// Linearizable reads see every write acknowledged before they began. They
	// cost one shared round to the leader and its voters.
	Linearizable Consistency = iota
	// Local reads see what this replica has applied. They always answer.
	Local
	// Bounded reads see every write acknowledged earlier than MaxStaleness ago.
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
	// Revision asks for the state as it was then; zero means now. A revision in
	// the middle of a txn means that txn's end.
	Revision uint64
	ReadOptions
}

// ListResult is the answer to a ListRequest.
type ListResult struct {
	Records []Record
	// Revision is the state the list shows, and where a Watch continues it.
	Revision uint64
	// More says that Limit cut the list; Remaining counts what was cut.
	More      bool
	Remaining int64
}

// EventType says what an Event tells.
type EventType uint8

const (
	// Put is a record created or changed.
	Put EventType = iota + 1
	// Delete is a record gone. Event.Record holds its key and the revision of
	// the deletion.
	Delete
	// Bookmark tells that every event up to Event.Revision has been delivered.
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

// Event is one change, in the order of revisions.
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
	// Revision is what the caller has seen: events after it are delivered. Zero
	// means from now on.
	Revision uint64
	// Bookmarks is the interval between Bookmark events; zero means none.
	Bookmarks time.Duration
}

// MemberHealth is what the caller's membership layer knows of a host.
type MemberHealth struct {
	ID    string
	Addr  string
	Zone  string
	Alive bool
	// FeatureLevel says which constraints and entry formats the host knows.
	FeatureLevel uint32
}
