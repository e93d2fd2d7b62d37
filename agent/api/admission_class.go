package api

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"virtmesh/agent/api/store"
	"virtmesh/agent/fault"
	"virtmesh/agent/kinds"
	stored "virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// claims is the resource that defaultClass changes.
var claims = schema.GroupResource{Resource: "persistentvolumeclaims"}

// defaultClass sets the default StorageClass in a new claim that names none, so that a
// later change of the default does not affect the claim. If several classes are marked
// as default, the newest is used, as in Kubernetes.
type defaultClass struct {
	*admission.Handler
	store store.Backend
}

var _ admission.MutationInterface = (*defaultClass)(nil)

func newDefaultClass(store store.Backend) *defaultClass {
	return &defaultClass{Handler: admission.NewHandler(admission.Create), store: store}
}

// Admit implements admission.MutationInterface.
func (d *defaultClass) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != claims || a.GetSubresource() != "" {
		return nil
	}
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	if !ok || claim.Spec.StorageClassName != nil {
		return nil
	}
	class, err := d.findDefault(ctx)
	if err != nil {
		return fault.Of(fmt.Errorf("find the default StorageClass: %w", err)).StatusError(claims, claim.Name)
	}
	if class != nil {
		claim.Spec.StorageClassName = &class.Name
	}
	return nil
}

// findDefault returns the default class, nil if there is none.
func (d *defaultClass) findDefault(ctx context.Context) (*storagev1.StorageClass, error) {
	list, err := d.store.List(ctx, raftstore.ListRequest{Prefix: kinds.For[*storagev1.StorageClass]().Prefix(), ReadOptions: raftstore.ReadOptions{Consistency: raftstore.Local}})
	if err != nil {
		return nil, err
	}
	var newest *storagev1.StorageClass
	for _, rec := range list.Records {
		class, err := stored.Decode[*storagev1.StorageClass](rec)
		if err != nil {
			return nil, err
		}
		if class.Annotations[kinds.DefaultClass] != "true" {
			continue
		}
		if newest == nil || newest.CreationTimestamp.Before(&class.CreationTimestamp) {
			newest = class
		}
	}
	return newest, nil
}
