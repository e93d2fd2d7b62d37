package registry

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
)

const podNode = "spec.nodeName"

var podResource = schema.GroupResource{Resource: "pods"}

// errNoPods is the answer to a request for the pods of a host. An empty list would tell
// kubectl drain that nothing runs there.
var errNoPods = errors.New("this mesh runs virtual machines without pods; see the virtualmachineinstances of the host")

// Pods serves the pods resource, which is always empty. kubectl describe of hosts and
// volume claims requests pods and fails without an answer.
type Pods struct{ rest.TableConvertor }

var (
	_ rest.Storage              = Pods{}
	_ rest.Scoper               = Pods{}
	_ rest.Getter               = Pods{}
	_ rest.Lister               = Pods{}
	_ rest.Creater              = Pods{}
	_ rest.SingularNameProvider = Pods{}
)

// NewPods returns the storage of pods.
func NewPods() Pods { return Pods{rest.NewDefaultTableConvertor(podResource)} }

// AddPodsToScheme makes pods known to s.
func AddPodsToScheme(s *runtime.Scheme) error {
	gvk := corev1.SchemeGroupVersion.WithKind("Pod")
	for _, version := range []string{gvk.Version, runtime.APIVersionInternal} {
		s.AddKnownTypes(schema.GroupVersion{Group: gvk.Group, Version: version}, &corev1.Pod{}, &corev1.PodList{})
	}
	return s.AddFieldLabelConversionFunc(gvk, func(label, value string) (string, string, error) {
		if label == podNode || label == "status.phase" {
			return label, value, nil
		}
		return runtime.DefaultMetaV1FieldSelectorConversion(label, value)
	})
}

// New implements rest.Storage.
func (Pods) New() runtime.Object { return &corev1.Pod{} }

// NewList implements rest.Lister.
func (Pods) NewList() runtime.Object { return &corev1.PodList{} }

// Destroy implements rest.Storage.
func (Pods) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (Pods) NamespaceScoped() bool { return true }

// GetSingularName implements rest.SingularNameProvider.
func (Pods) GetSingularName() string { return "pod" }

// Get implements rest.Getter.
func (Pods) Get(_ context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	return nil, apierrors.NewNotFound(podResource, name)
}

// Create implements rest.Creater. Who makes a pod is told why there are none.
func (Pods) Create(_ context.Context, obj runtime.Object, _ rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	name := ""
	if pod, ok := obj.(*corev1.Pod); ok {
		name = pod.Name + pod.GenerateName
	}
	return nil, apierrors.NewForbidden(podResource, name, errNoPods)
}

// List implements rest.Lister.
func (Pods) List(_ context.Context, opts *metainternalversion.ListOptions) (runtime.Object, error) {
	if opts != nil && opts.FieldSelector != nil {
		if _, asks := opts.FieldSelector.RequiresExactMatch(podNode); asks {
			return nil, apierrors.NewForbidden(podResource, "", errNoPods)
		}
	}
	return &corev1.PodList{}, nil
}
