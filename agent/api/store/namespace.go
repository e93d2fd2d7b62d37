package store

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// namespaces is named in errors.
var namespaces = schema.GroupResource{Resource: "namespaces"}

// namespaceTries is how often a creation is tried while the record of the Namespace
// changes under it.
const namespaceTries = 10

// createRecord writes a new record at key. If the objects are in namespaces, their
// Namespace must be there, and not be under deletion, when the record is written: the
// controller that empties a Namespace would not look for the object any more.
func (s *Store) createRecord(ctx context.Context, key string, data []byte) (uint64, error) {
	l, ok := kinds.ParseLocation(key)
	if !s.inNamespaces || !ok {
		return s.putRecord(ctx, key, data, 0)
	}
	home := kinds.For[*corev1.Namespace]().StoreKey(kinds.Key{Name: l.Key.Namespace})
	rec, err := s.readNamespace(ctx, home)
	for range namespaceTries {
		if err != nil {
			return 0, err
		}
		if err = s.checkNamespace(l.Key, rec); err != nil {
			return 0, err
		}
		var rev uint64
		rev, err = s.commitTxn(ctx, raftstore.Txn{
			If:  []raftstore.Condition{{Key: key}, {Key: home, ModRevision: rec.ModRevision}},
			Ops: []raftstore.Op{{Key: key, Value: data}},
		})
		var conflict *raftstore.ConflictError
		if !errors.As(err, &conflict) || conflict.Key != home {
			return rev, err
		}
		rec, err = conflict.Current, nil
	}
	return 0, apierrors.NewServerTimeout(s.resource, "create", retryAfterSeconds)
}

// readNamespace reads the record of a Namespace; nil if there is none. What the local
// replica does not have may be newer than it.
func (s *Store) readNamespace(ctx context.Context, key string) (*raftstore.Record, error) {
	rec, _, err := s.getRecord(ctx, key, raftstore.ReadOptions{Consistency: raftstore.Local})
	if errors.Is(err, raftstore.ErrNotFound) {
		rec, _, err = s.getRecord(ctx, key, raftstore.ReadOptions{})
	}
	if errors.Is(err, raftstore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, s.readError(err, 0, s.backend.Revision())
	}
	return &rec, nil
}

// checkNamespace refuses an object whose Namespace does not exist or is being deleted.
func (s *Store) checkNamespace(key kinds.Key, rec *raftstore.Record) error {
	if rec == nil {
		return apierrors.NewNotFound(namespaces, key.Namespace)
	}
	ns, err := objects.Decode[*corev1.Namespace](*rec)
	if err != nil {
		return fmt.Errorf("decode namespace %s: %w", key.Namespace, err)
	}
	return RefuseTerminating(s.resource, key.Name, ns)
}

// RefuseTerminating returns the error that Kubernetes has for a new object in a Namespace
// that is being deleted; nil if ns is not.
func RefuseTerminating(resource schema.GroupResource, name string, ns *corev1.Namespace) error {
	if ns.Status.Phase != corev1.NamespaceTerminating && ns.DeletionTimestamp == nil {
		return nil
	}
	status := apierrors.NewForbidden(resource, name, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", ns.Name))
	status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{
		Type:    corev1.NamespaceTerminatingCause,
		Message: fmt.Sprintf("namespace %s is being terminated", ns.Name),
		Field:   "metadata.namespace",
	})
	return status
}
