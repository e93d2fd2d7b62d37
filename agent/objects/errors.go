package objects

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"virtmesh/raftstore"
)

// Refused returns the constraint that refused a transaction, if that is what
// err says.
func Refused(err error) (*raftstore.ConstraintError, bool) {
	var ce *raftstore.ConstraintError
	ok := errors.As(err, &ce)
	return ce, ok
}

// apiError turns a lost race into the error class the Kubernetes API has for
// it, so that apierrors.IsConflict and its kin work; errors.As still finds the
// store's own error. Other errors are returned as they are.
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
