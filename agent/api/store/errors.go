package store

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"

	"virtmesh/agent/fault"
	"virtmesh/raftstore"
)

// retryAfterSeconds is after how long a client should repeat a read of a revision that
// this host does not have yet.
const retryAfterSeconds = 1

const (
	listExpired      = "The resourceVersion for the provided list is too old."
	watchExpired     = "The resourceVersion for the provided watch is too old."
	continueExpired  = "The provided continue parameter is too old to display a consistent list result. Start a new list."
	continueOutdated = "The provided continue parameter is too old to display a consistent list result. " +
		"Start a new list, or continue with the continue token of this response: the list may then include or miss " +
		"what was written since the first page."
)

// readError converts an error of a read to an API status. Only what a fault cannot say,
// because it is about revisions, is decided here.
func (s *Store) readError(err error, want, current uint64) error {
	switch {
	case errors.Is(err, raftstore.ErrFutureRevision):
		return storage.NewTooLargeResourceVersionError(want, current, retryAfterSeconds)
	case errors.Is(err, raftstore.ErrCompacted):
		return apierrors.NewResourceExpired(listExpired)
	}
	return fault.Of(fmt.Errorf("read %s: %w", s.resource, err)).StatusError(s.resource, "")
}

// writeError converts an error of a commit to an API status. It returns a lost race
// unchanged: the caller repeats the change.
func writeError(gr schema.GroupResource, key string, err error) error {
	var conflict *raftstore.ConflictError
	if errors.As(err, &conflict) {
		return err
	}
	var refused *apierrors.StatusError
	if errors.As(err, &refused) { // by a planner
		return refused
	}
	stopped := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	if stopped && !errors.Is(err, raftstore.ErrNoLeader) {
		// What was sent may still be committed. An unknown outcome has no Retry-After:
		// clients would repeat the request by themselves, and repeating a create with a
		// generated name makes a second object.
		err = raftstore.ErrUnknownOutcome
	}
	return fault.Of(fmt.Errorf("write %s %q: %w", gr, nameOf(key), err)).StatusError(gr, nameOf(key))
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
