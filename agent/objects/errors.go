package objects

import (
	"errors"
	"fmt"

	"virtmesh/agent/fault"
	"virtmesh/raftstore"
)

// Refused returns the constraint that refused a transaction, and false if err is not
// such a refusal.
func Refused(err error) (*raftstore.ConstraintError, bool) {
	var ce *raftstore.ConstraintError
	ok := errors.As(err, &ce)
	return ce, ok
}

// LostRace reports whether err says that another transaction came first. The same act
// can succeed once the objects are read again.
func LostRace(err error) bool {
	var conflict *raftstore.ConflictError
	return errors.As(err, &conflict)
}

// nameConflict adds to the fault of a lost race which object it is about, so that it
// can be shown to users. Functions such as apierrors.IsConflict recognise the fault, and
// errors.As still finds the store's own error. It returns other errors unchanged.
func nameConflict(err error) error {
	var conflict *raftstore.ConflictError
	if !errors.As(err, &conflict) {
		return err
	}
	named := *fault.Of(conflict)
	about := "the record " + conflict.Key
	if kind, key, ok := ParseStoreKey(conflict.Key); ok {
		named.Object = key.String()
		about = fmt.Sprintf("%s %q", kind.GroupResource(), key.Name)
	}
	if named.Code == fault.Conflict {
		about += ":"
	}
	named.Sentence = about + " " + named.Sentence
	return &named
}
