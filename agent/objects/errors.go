package objects

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"virtmesh/raftstore"
)

// Refused returns the constraint that refused a transaction, and false if err is not
// such a refusal.
func Refused(err error) (*raftstore.ConstraintError, bool) {
	var ce *raftstore.ConstraintError
	ok := errors.As(err, &ce)
	return ce, ok
}

// apiError converts a lost race to the error class that the Kubernetes API has for it,
// so that apierrors.IsConflict and similar functions work; errors.As still finds the
// store's own error. It returns other errors unchanged.
func apiError(err error) error {
	var conflict *raftstore.ConflictError
	if !errors.As(err, &conflict) {
		return err
	}
	gr, name := schema.GroupResource{Resource: "claims"}, conflict.Key
	if kind, key, ok := ParseStoreKey(conflict.Key); ok {
		gr, name = kind.GroupResource(), key.Name
	}
	var status *apierrors.StatusError
	switch {
	case conflict.Want == 0:
		status = apierrors.NewAlreadyExists(gr, name)
	case conflict.Current == nil:
		status = apierrors.NewNotFound(gr, name)
	default:
		status = apierrors.NewConflict(gr, name, conflict)
	}
	return fmt.Errorf("%w (%w)", status, conflict)
}
