package raftstore

import (
	"errors"
	"fmt"
)

var (
	// ErrNotFound: Get found no record at the key.
	ErrNotFound = errors.New("raftstore: key not found")
	// ErrCompacted: the requested revision is older than the kept history. List
	// again and continue from the revision of the list.
	ErrCompacted = errors.New("raftstore: revision has been compacted")
	// ErrFutureRevision: the store has not reached the requested revision yet.
	ErrFutureRevision = errors.New("raftstore: revision is in the future")
	// ErrNoLeader: no leader could be reached before the context ended. Nothing
	// was changed.
	ErrNoLeader = errors.New("raftstore: no leader")
	// ErrUnknownOutcome: while a write was in progress, the context ended or the
	// request became too old to be recognised. The write may or may not have
	// happened; repeating it soon with the same RequestID is safe.
	ErrUnknownOutcome = errors.New("raftstore: outcome of the write is unknown")
	// ErrSlowWatcher: the watcher fell behind the kept history. List again and watch
	// from the revision of the list.
	ErrSlowWatcher = errors.New("raftstore: watcher is too slow")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("raftstore: store is closed")
	// ErrHalted: the replica read an entry it cannot judge, or its group was
	// replaced, and it stopped rather than diverge. Store.Err says why.
	ErrHalted = errors.New("raftstore: replica is halted")
	// ErrApplyPanicked: a constraint, or the state machine itself, panicked over an entry. The
	// replica halts at that entry until a version runs that can judge it.
	ErrApplyPanicked = errors.New("raftstore: panic while applying an entry")
	// ErrInvalidTxn: the txn is malformed; no retry of it can succeed.
	ErrInvalidTxn = errors.New("raftstore: invalid transaction")
	// ErrForbidden: the leader does not let this host make the change, see Config.MayChange.
	ErrForbidden = errors.New("raftstore: this host may not make that change")
	// ErrTooLarge: the txn exceeds Limits.MaxTxnBytes or MaxTxnOps.
	ErrTooLarge = errors.New("raftstore: transaction is too large")
	// ErrUnknownConstraint: the txn calls a constraint version that this mesh, or
	// a member of it, does not know.
	ErrUnknownConstraint = errors.New("raftstore: unknown constraint")
	// ErrRequestIDReused: another txn was committed under the same RequestID.
	ErrRequestIDReused = errors.New("raftstore: request ID was used for another transaction")
	// ErrCorruptLog: the log or a snapshot on disk is damaged. A disk that cannot be
	// read or written for another reason is never reported so. Empty the data
	// directory, see Empty, and join again; the other replicas have the data.
	ErrCorruptLog = errors.New("raftstore: data on disk is corrupt")
	// ErrReplaced: a recovery or a restored backup replaced the group that this
	// replica belongs to. Empty the data directory, see Empty, and join again.
	ErrReplaced = errors.New("raftstore: this host's replica belongs to a group that was replaced by a recovery")
	// ErrDiverged: the state of this replica is not the one that a majority of the voters
	// has. Empty the data directory, see Empty, and join again.
	ErrDiverged = errors.New("raftstore: this replica's state differs from that of the voters")
	// ErrFeatureLevel: this version does not know the feature level of the group, or a
	// format in which data was written. The error names what to install.
	ErrFeatureLevel = errors.New("raftstore: this version does not fit the mesh")
	// ErrTooNew is the ErrFeatureLevel of a version that knows no level as low as that of
	// the group. Any other ErrFeatureLevel is that of a version that is too old.
	ErrTooNew = fmt.Errorf("%w", ErrFeatureLevel)
	// ErrHeldUp: a host does not know the feature level to which the group is to be raised,
	// or did not say whether it does.
	ErrHeldUp = errors.New("raftstore: hosts hold up the feature level")
	// ErrUnconfirmed: this replica got its state from another one, and a majority of the
	// voters has not signed yet that it is the group's.
	ErrUnconfirmed = errors.New("raftstore: the voters have not confirmed this replica's state")
	// ErrVotersGone: most hosts that could confirm this replica's state are no members of the
	// mesh any more. Empty the data directory, see Empty, and join again.
	ErrVotersGone = errors.New("raftstore: most of the voters that this replica knew are no members of the mesh any more")
	// ErrMayNotVote: VoterPolicy.Limit does not let the node vote.
	ErrMayNotVote = errors.New("raftstore: it may not vote")
	// ErrHasState: the data directory holds state, and a backup is never restored
	// over existing state.
	ErrHasState = errors.New("raftstore: data directory holds state already")
	// ErrLocked: another process has the data directory open.
	ErrLocked = errors.New("raftstore: data directory is locked by another process")
	// ErrDiskFull: the log cannot be written because the disk is full.
	ErrDiskFull = errors.New("raftstore: no space left for the log")
)

// ConflictError says which condition of a txn failed. Find it with errors.As.
type ConflictError struct {
	Key string
	// Want is the condition's ModRevision.
	Want uint64
	// Current is the record at Key when the txn was judged, nil if there was none.
	// For a retry of a request that was refused before, it is the record at the
	// time of the retry.
	Current *Record
}

// Error implements error.
func (e *ConflictError) Error() string {
	if e.Current == nil {
		return fmt.Sprintf("raftstore: key %q does not exist, want revision %d", e.Key, e.Want)
	}
	if e.Want == 0 {
		return fmt.Sprintf("raftstore: key %q exists at revision %d", e.Key, e.Current.ModRevision)
	}
	return fmt.Sprintf("raftstore: key %q is at revision %d, want %d", e.Key, e.Current.ModRevision, e.Want)
}

// ConstraintError says which constraint refused a txn and why. Find it with
// errors.As.
type ConstraintError struct {
	Name    string
	Version uint32
	Reason  string
}

// Error implements error.
func (e *ConstraintError) Error() string {
	return fmt.Sprintf("raftstore: constraint %s/v%d: %s", e.Name, e.Version, e.Reason)
}

// panicError is a panic of the state machine.
type panicError struct {
	cause any
	asked *ConstraintCall // the constraint that panicked, nil if none did
	stack []byte
}

// Error implements error.
func (e *panicError) Error() string {
	culprit := "the state machine"
	if e.asked != nil {
		culprit = fmt.Sprintf("constraint %s/v%d", e.asked.Name, e.asked.Version)
	}
	return fmt.Sprintf("%s panicked: %v; install a version in which this is mended", culprit, e.cause)
}

// Unwrap returns ErrApplyPanicked.
func (e *panicError) Unwrap() error { return ErrApplyPanicked }

var (
	_ error = (*panicError)(nil)
	_ error = (*ConflictError)(nil)
	_ error = (*ConstraintError)(nil)
)
