package raftstore

import (
	"errors"
	"testing"
)

// TestUnknownStatusSettlesNothing: a leader of a later version may answer a commit with a
// status that this version does not know. It may have carried the commit out.
func TestUnknownStatusSettlesNothing(t *testing.T) {
	for s := range status(255) {
		err := errorOf(s, []byte("text"))
		known := s >= statusOK && s <= statusForbidden
		if !known && !errors.Is(err, errUnsettled) {
			t.Errorf("status %d: %v", s, err)
		}
		if (s == statusNotLeader || s == statusFailed) && (!errors.Is(err, errNotLeader) || errors.Is(err, errUnsettled)) {
			t.Errorf("status %d: %v", s, err)
		}
	}
	for _, err := range []error{errUnsettled, ErrInvalidTxn, ErrTooLarge, ErrUnknownConstraint, errNotLeader, ErrFeatureLevel, ErrTooNew, ErrHeldUp} {
		if got := errorOf(statusOf(err), nil); !errors.Is(got, err) {
			t.Errorf("%v comes back as %v", err, got)
		}
		if got := errorOf(statusOf(err), nil); errors.Is(got, ErrTooNew) != (err == ErrTooNew) {
			t.Errorf("%v comes back as one of a version that is too new", err)
		}
	}
}
