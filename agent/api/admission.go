package api

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"virtmesh/agent/api/store"
	"virtmesh/agent/fault"
	"virtmesh/agent/kinds"
	stored "virtmesh/agent/objects"
	"virtmesh/raftstore"
)

var (
	namespaces    = schema.GroupResource{Resource: "namespaces"}
	namespaceKind = schema.GroupKind{Kind: "Namespace"}
)

// immortal lists the namespaces that cannot be deleted.
var immortal = map[string]bool{metav1.NamespaceDefault: true, metav1.NamespaceSystem: true}

// namespaceLifecycle refuses new objects in namespaces that do not exist or are being
// deleted, and refuses the deletion of the namespaces in immortal.
//
// It reads the local replica, which may learn of a deletion a moment late. The store
// checks the namespace again when it writes the object.
type namespaceLifecycle struct {
	*admission.Handler
	store store.Backend
}

var _ admission.MutationInterface = (*namespaceLifecycle)(nil)

func newNamespaceLifecycle(store store.Backend) *namespaceLifecycle {
	return &namespaceLifecycle{Handler: admission.NewHandler(admission.Create, admission.Delete), store: store}
}

// Admit implements admission.MutationInterface.
func (l *namespaceLifecycle) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	isNamespace := a.GetKind().GroupKind() == namespaceKind
	if a.GetOperation() == admission.Delete {
		if isNamespace && immortal[a.GetName()] {
			return apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(), errors.New("this namespace may not be deleted"))
		}
		return nil
	}
	if isNamespace || a.GetNamespace() == "" || a.GetSubresource() != "" {
		return nil
	}
	ns, err := l.getNamespace(ctx, a.GetNamespace())
	if err != nil {
		return err
	}
	return store.RefuseTerminating(a.GetResource().GroupResource(), a.GetName(), ns)
}

// getNamespace reads a namespace. It reports a namespace as missing only after a
// linearizable read.
func (l *namespaceLifecycle) getNamespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	key := kinds.For[*corev1.Namespace]().StoreKey(kinds.Key{Name: name})
	rec, _, err := l.store.Get(ctx, key, raftstore.ReadOptions{Consistency: raftstore.Local})
	if errors.Is(err, raftstore.ErrNotFound) {
		rec, _, err = l.store.Get(ctx, key, raftstore.ReadOptions{})
	}
	if errors.Is(err, raftstore.ErrNotFound) {
		return nil, apierrors.NewNotFound(namespaces, name)
	}
	if err != nil {
		return nil, fault.Of(fmt.Errorf("read namespace %s: %w", name, err)).StatusError(namespaces, name)
	}
	return stored.Decode[*corev1.Namespace](rec)
}
