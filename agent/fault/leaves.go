package fault

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"virtmesh/raftstore"
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
		{raftstore.ErrDiskFull, Unavailable, "this host's disk is full"},
		{raftstore.ErrClosed, Unavailable, "this host's replica is stopped"},
		{raftstore.ErrHalted, Unavailable, "this host's replica is stopped"},
		{context.DeadlineExceeded, Unavailable, "the operation timed out"},
	}
}

// translateLeaf returns the fault for an error that holds none, and the part of its
// text that the fault's sentence replaces. It returns nil for an unknown error.
func translateLeaf(err error) (f *Fault, text string) {
	var refused *raftstore.ConstraintError
	if errors.As(err, &refused) {
		return &Fault{Code: Conflict, Sentence: refused.Reason}, refused.Error()
	}
	var conflict *raftstore.ConflictError
	var status apierrors.APIStatus
	if errors.As(err, &conflict) {
		f := &Fault{Code: Conflict, Sentence: "another change was committed first"}
		if errors.As(err, &status) {
			// A transaction of objects knows more: that something exists already, or
			// does not exist any more.
			f.Code = codeOfReason(status.Status().Reason)
		}
		return f, conflict.Error()
	}
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
