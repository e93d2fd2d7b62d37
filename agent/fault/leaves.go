package fault

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"virtmesh/raftstore"
	"virtmesh/storage"
)

// leaf is the code and the sentence for an error of a package that does not use faults.
type leaf struct {
	err      error
	code     Code
	sentence string
}

// leaves returns the only table of such errors.
func leaves() []leaf {
	return []leaf{
		{raftstore.ErrNotFound, NotFound, "not found"},
		{raftstore.ErrNoLeader, Unavailable, "the mesh has no leader: nothing can be changed until a majority of the voters is back"},
		{raftstore.ErrUnknownOutcome, UnknownOutcome, "the write may or may not have happened: look before trying again"},
		{raftstore.ErrTooLarge, TooLarge, "the transaction is too large"},
		{raftstore.ErrForbidden, Forbidden, "this host may not change that"},
		{raftstore.ErrDiskFull, Unavailable, "this host's disk is full"},
		{raftstore.ErrTooNew, TooNew, "this version does not fit the mesh"},
		{raftstore.ErrFeatureLevel, TooOld, "this version does not fit the mesh"},
		{raftstore.ErrHeldUp, Conflict, "hosts hold up feature level"},
		{raftstore.ErrClosed, Unavailable, "this host's replica is stopped"},
		{raftstore.ErrHalted, Unavailable, "this host's replica is stopped"},
		{raftstore.ErrVotersGone, Unavailable, "most hosts that could confirm this host's copy of the state were removed"},
		{raftstore.ErrUnconfirmed, Unavailable, "most voters have not confirmed this host's copy of the state yet"},
		{storage.ErrNotFound, NotFound, "not found"},
		{storage.ErrExists, AlreadyExists, "exists already"},
		{storage.ErrInvalid, Invalid, "invalid"},
		{storage.ErrUnsafeSource, Invalid, "source is not a usable disk image"},
		{storage.ErrUnsupported, Invalid, "not supported by this pool"},
		{storage.ErrBusy, Conflict, "volume is busy"},
		{storage.ErrNoSpace, Unavailable, "no space left in pool"},
		{storage.ErrUnavailable, Unavailable, "pool is not there"},
		{storage.ErrClosed, Unavailable, "pool is closed"},
		{context.DeadlineExceeded, Unavailable, "the operation timed out"},
		{context.Canceled, Unavailable, "the operation was stopped"},
	}
}

// ofLostRace returns the fault for a transaction that another one preceded. An object
// that was to be created exists; one that was to be changed is gone or has changed.
func ofLostRace(conflict *raftstore.ConflictError) *Fault {
	switch {
	case conflict.Want == 0:
		return &Fault{Code: AlreadyExists, Sentence: "already exists"}
	case conflict.Current == nil:
		return &Fault{Code: NotFound, Sentence: "not found"}
	}
	return &Fault{Code: Conflict, Sentence: "another change was committed first"}
}

// translateLeaf returns the fault for an error that holds none, and the part of its
// text that the fault's sentence replaces. It returns nil for an unknown error.
func translateLeaf(err error) (f *Fault, text string) {
	var refused *raftstore.ConstraintError
	if errors.As(err, &refused) {
		return &Fault{Code: Conflict, Sentence: refused.Reason}, refused.Error()
	}
	var conflict *raftstore.ConflictError
	if errors.As(err, &conflict) {
		return ofLostRace(conflict), conflict.Error()
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		inner := ofStatus(status.Status())
		return inner, inner.Error()
	}
	for _, known := range leaves() {
		if errors.Is(err, known.err) {
			return &Fault{Code: known.code, Sentence: known.sentence}, known.err.Error()
		}
	}
	var code Code
	if errors.As(err, &code) {
		return &Fault{Code: code, Sentence: code.Error()}, code.Error()
	}
	return nil, ""
}
