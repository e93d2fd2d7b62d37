package pods

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

var resourceName = schema.GroupResource{Resource: "pods"}

// errProjected is the answer to whoever makes a Pod.
var errProjected = errors.New("this mesh runs virtual machines and no containers: it makes the pods itself, one for each virtualmachineinstance")

// Instances is the storage of the instances, which the Pods are computed from. Lists and watches
// have decoded instances.
type Instances interface {
	rest.Getter
	List(ctx context.Context, opts *metainternalversion.ListOptions) (runtime.Object, error)
	rest.Watcher
	rest.GracefulDeleter
}

// REST serves the pods. It is safe for concurrent use.
type REST struct {
	table
	instances Instances
}

var (
	_ rest.Storage              = (*REST)(nil)
	_ rest.Scoper               = (*REST)(nil)
	_ rest.Getter               = (*REST)(nil)
	_ rest.Lister               = (*REST)(nil)
	_ rest.Watcher              = (*REST)(nil)
	_ rest.Creater              = (*REST)(nil)
	_ rest.GracefulDeleter      = (*REST)(nil)
	_ rest.SingularNameProvider = (*REST)(nil)
	_ rest.ShortNamesProvider   = (*REST)(nil)
)

// NewREST returns the storage of the pods of instances.
func NewREST(instances Instances) *REST { return &REST{instances: instances} }

// New implements rest.Storage.
func (*REST) New() runtime.Object { return &corev1.Pod{} }

// NewList implements rest.Lister.
func (*REST) NewList() runtime.Object { return &corev1.PodList{} }

// Destroy implements rest.Storage.
func (*REST) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (*REST) NamespaceScoped() bool { return true }

// GetSingularName implements rest.SingularNameProvider.
func (*REST) GetSingularName() string { return "pod" }

// ShortNames implements rest.ShortNamesProvider.
func (*REST) ShortNames() []string { return []string{"po"} }

// Create implements rest.Creater. Who makes a pod is told that only the mesh does.
func (*REST) Create(_ context.Context, obj runtime.Object, _ rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	name := ""
	if pod, ok := obj.(*corev1.Pod); ok {
		name = pod.Name + pod.GenerateName
	}
	return nil, apierrors.NewForbidden(resourceName, name, errProjected)
}

// find returns the Pod of a name and the instance that it is of.
func (r *REST) find(ctx context.Context, name string, opts *metav1.GetOptions) (*corev1.Pod, *kubevirtv1.VirtualMachineInstance, error) {
	instance, whole := instanceOf(name)
	if !whole {
		return r.findLong(ctx, name)
	}
	obj, err := r.instances.Get(ctx, instance, opts)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil, apierrors.NewNotFound(resourceName, name)
	case err != nil:
		return nil, nil, err
	}
	vmi := obj.(*kubevirtv1.VirtualMachineInstance)
	if pod := Of(vmi); pod.Name == name {
		return pod, vmi, nil
	}
	return nil, nil, apierrors.NewNotFound(resourceName, name)
}

// findLong is find for a name in which that of the instance may be cut.
func (r *REST) findLong(ctx context.Context, name string) (*corev1.Pod, *kubevirtv1.VirtualMachineInstance, error) {
	obj, err := r.instances.List(ctx, &metainternalversion.ListOptions{})
	if err != nil {
		return nil, nil, err
	}
	all := obj.(*kubevirtv1.VirtualMachineInstanceList).Items
	for i := range all {
		if len(all[i].Name) < longFrom {
			continue
		}
		if pod := Of(&all[i]); pod.Name == name {
			return pod, &all[i], nil
		}
	}
	return nil, nil, apierrors.NewNotFound(resourceName, name)
}

// Get implements rest.Getter.
func (r *REST) Get(ctx context.Context, name string, opts *metav1.GetOptions) (runtime.Object, error) {
	pod, _, err := r.find(ctx, name, opts)
	if err != nil {
		return nil, err
	}
	return pod, nil
}

// matches reports whether a Pod is one that opts select.
func matches(opts *metainternalversion.ListOptions, pod *corev1.Pod) bool {
	if opts == nil {
		return true
	}
	if opts.LabelSelector != nil && !opts.LabelSelector.Matches(labels.Set(pod.Labels)) {
		return false
	}
	return opts.FieldSelector == nil || opts.FieldSelector.Matches(selectable(pod))
}

// selectable returns the fields by which Pods can be selected.
func selectable(pod *corev1.Pod) fields.Set {
	return fields.Set{
		"metadata.name": pod.Name, "metadata.namespace": pod.Namespace, "spec.nodeName": pod.Spec.NodeName,
		"spec.restartPolicy": string(pod.Spec.RestartPolicy), "status.phase": string(pod.Status.Phase), "status.podIP": pod.Status.PodIP,
	}
}

// ofInstances returns the options of a list or watch of the instances for one of the Pods, whose
// selectors are applied to the Pods.
func ofInstances(opts *metainternalversion.ListOptions) *metainternalversion.ListOptions {
	if opts == nil {
		return &metainternalversion.ListOptions{}
	}
	inner := opts.DeepCopy()
	inner.LabelSelector, inner.FieldSelector = nil, nil
	return inner
}

// List implements rest.Lister. A page of a list with a selector may have fewer Pods than its limit.
func (r *REST) List(ctx context.Context, opts *metainternalversion.ListOptions) (runtime.Object, error) {
	obj, err := r.instances.List(ctx, ofInstances(opts))
	if err != nil {
		return nil, err
	}
	instances := obj.(*kubevirtv1.VirtualMachineInstanceList)
	list := &corev1.PodList{ListMeta: instances.ListMeta, Items: []corev1.Pod{}}
	if opts != nil && (opts.LabelSelector != nil && !opts.LabelSelector.Empty() || opts.FieldSelector != nil && !opts.FieldSelector.Empty()) {
		list.RemainingItemCount = nil
	}
	for i := range instances.Items {
		if pod := Of(&instances.Items[i]); matches(opts, pod) {
			list.Items = append(list.Items, *pod)
		}
	}
	return list, nil
}

// Delete implements rest.GracefulDeleter. It deletes the instance: the guest is shut down within
// the time that opts or the instance gives it.
func (r *REST) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, opts *metav1.DeleteOptions) (runtime.Object, bool, error) {
	pod, vmi, err := r.find(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	if validate != nil {
		if err := validate(ctx, pod.DeepCopy()); err != nil {
			return nil, false, err
		}
	}
	inner := &metav1.DeleteOptions{}
	if opts != nil {
		inner = opts.DeepCopy()
	}
	if p := inner.Preconditions; p != nil && p.UID != nil && *p.UID != pod.UID {
		return nil, false, apierrors.NewConflict(resourceName, name, errors.New("the pod has another UID: it is of another instance"))
	}
	if inner.Preconditions == nil {
		inner.Preconditions = &metav1.Preconditions{}
	}
	inner.Preconditions.UID = &vmi.UID // another instance may have got the name meanwhile
	ctx = genericapirequest.WithNamespace(ctx, vmi.Namespace)
	if _, _, err = r.instances.Delete(ctx, vmi.Name, rest.ValidateAllObjectFunc, inner); err != nil {
		return nil, false, err
	}
	return pod, false, nil
}
