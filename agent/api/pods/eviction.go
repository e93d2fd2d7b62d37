package pods

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// evictionRetry is after how many seconds who evicts a Pod is told to try again.
const evictionRetry = 10

// Eviction serves the subresource "eviction", by which kubectl drain empties a host.
type Eviction struct{ pods *REST }

var (
	_ rest.NamedCreater             = (*Eviction)(nil)
	_ rest.GroupVersionKindProvider = (*Eviction)(nil)
)

// NewEviction returns the storage of the subresource.
func NewEviction(pods *REST) *Eviction { return &Eviction{pods} }

// New implements rest.Storage.
func (*Eviction) New() runtime.Object { return &policyv1.Eviction{} }

// Destroy implements rest.Storage.
func (*Eviction) Destroy() {}

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (*Eviction) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

// Create implements rest.NamedCreater. It deletes the instance of the Pod if the instance's
// eviction strategy lets it, and else tells the client to try again, as KubeVirt does until the
// guest has been moved.
func (e *Eviction) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	asked, ok := obj.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not an Eviction: %T", obj))
	}
	if asked.Name != "" && asked.Name != name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("metadata.name: the eviction is of %q, and the path of %q", asked.Name, name))
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	pod, vmi, err := e.pods.find(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if why := mustStay(pod, vmi); why != "" {
		return nil, apierrors.NewTooManyRequests(why, evictionRetry)
	}
	deletion := &metav1.DeleteOptions{}
	if asked.DeleteOptions != nil {
		deletion = asked.DeleteOptions.DeepCopy()
	}
	if opts != nil && len(opts.DryRun) > 0 {
		deletion.DryRun = opts.DryRun
	}
	if _, _, err := e.pods.Delete(ctx, name, nil, deletion); err != nil && !apierrors.IsNotFound(err) {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// mustStay says why a Pod cannot be evicted; empty if it can. A guest that has ended has nothing
// to lose, and one that is ending ends by itself.
func mustStay(pod *corev1.Pod, vmi *kubevirtv1.VirtualMachineInstance) string {
	strategy := kubevirtv1.EvictionStrategyNone
	if s := vmi.Spec.EvictionStrategy; s != nil {
		strategy = *s
	}
	ends := pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if ends || strategy == kubevirtv1.EvictionStrategyNone || strategy == kubevirtv1.EvictionStrategyLiveMigrateIfPossible {
		return ""
	}
	return fmt.Sprintf("the virtualmachineinstance %s/%s has evictionStrategy %s, and this mesh cannot move a running guest yet: stop it, or set the strategy to None, with which it is shut down",
		vmi.Namespace, vmi.Name, strategy)
}
