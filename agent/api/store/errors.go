package store

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"

	"virtmesh/raftstore"
)

// retryAfterSeconds is after how long a client should retry when the mesh cannot serve.
const retryAfterSeconds = 1

const (
	listExpired      = "The resourceVersion for the provided list is too old."
	watchExpired     = "The resourceVersion for the provided watch is too old."
	continueExpired  = "The provided continue parameter is too old to display a consistent list result. Start a new list."
	continueOutdated = "The provided continue parameter is too old to display a consistent list result. " +
		"Start a new list, or continue with the continue token of this response: the list may then include or miss " +
		"what was written since the first page."
)

// readError converts an error of a read to an API status.
func readError(err error, want, current uint64) error {
	switch {
	case errors.Is(err, raftstore.ErrFutureRevision):
		return storage.NewTooLargeResourceVersionError(want, current, retryAfterSeconds)
	case errors.Is(err, raftstore.ErrCompacted):
		return apierrors.NewResourceExpired(listExpired)
	case errors.Is(err, raftstore.ErrNoLeader):
		return noLeader("read")
	case errors.Is(err, raftstore.ErrClosed), errors.Is(err, raftstore.ErrHalted):
		return unavailable("this host's replica is stopped: " + err.Error())
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return apierrors.NewTimeoutError("the read did not finish in time", retryAfterSeconds)
	}
	return fmt.Errorf("read: %w", err)
}

// writeError converts an error of a commit to an API status. It returns a conflict on a
// revision unchanged: the caller retries it.
func writeError(gr schema.GroupResource, key string, err error) error {
	var conflict *raftstore.ConflictError
	var constraint *raftstore.ConstraintError
	switch {
	case errors.As(err, &conflict):
		return err
	case errors.As(err, &constraint):
		return apierrors.NewConflict(gr, nameOf(key), fmt.Errorf("%s: %s", constraint.Name, constraint.Reason))
	case errors.Is(err, raftstore.ErrNoLeader):
		return noLeader("write")
	case errors.Is(err, raftstore.ErrTooLarge):
		return apierrors.NewRequestEntityTooLargeError(err.Error())
	case errors.Is(err, raftstore.ErrDiskFull), errors.Is(err, raftstore.ErrClosed), errors.Is(err, raftstore.ErrHalted):
		return unavailable("this host cannot write: " + err.Error())
	case errors.Is(err, raftstore.ErrUnknownOutcome):
		// Send no Retry-After: clients would retry automatically, and repeating a
		// create with a generated name makes a second object.
		return apierrors.NewTimeoutError("the write may or may not have happened: read the object before trying again", 0)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return apierrors.NewTimeoutError("the write did not finish in time and may or may not have happened", 0)
	}
	return fmt.Errorf("write %s: %w", key, err)
}

// noLeader is the error while the mesh has no quorum.
func noLeader(act string) error {
	return unavailable("the mesh has no leader: cannot " + act + " now")
}

// unavailable returns an error that tells the client to retry.
func unavailable(why string) error {
	err := apierrors.NewServiceUnavailable(why)
	err.ErrStatus.Details = &metav1.StatusDetails{RetryAfterSeconds: retryAfterSeconds}
	return err
}

// expiredContinue answers a continue token whose revision was compacted with a token
// that continues at the newest revision.
func expiredContinue(continueKey, prefix string) error {
	token, err := storage.EncodeContinue(continueKey, prefix, -1)
	if err != nil {
		return apierrors.NewResourceExpired(continueExpired)
	}
	status := apierrors.NewResourceExpired(continueOutdated)
	status.ErrStatus.ListMeta.Continue = token
	return status
}
