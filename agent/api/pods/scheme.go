package pods

import (
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// AddToScheme makes Pods and evictions known to s.
func AddToScheme(s *runtime.Scheme) error {
	gvk := corev1.SchemeGroupVersion.WithKind("Pod")
	for _, version := range []string{gvk.Version, runtime.APIVersionInternal} {
		s.AddKnownTypes(schema.GroupVersion{Group: gvk.Group, Version: version}, &corev1.Pod{}, &corev1.PodList{})
	}
	s.AddKnownTypes(policyv1.SchemeGroupVersion, &policyv1.Eviction{})
	s.AddKnownTypes(schema.GroupVersion{Group: policyv1.GroupName, Version: runtime.APIVersionInternal}, &policyv1.Eviction{})
	metav1.AddToGroupVersion(s, policyv1.SchemeGroupVersion)
	fields := selectable(&corev1.Pod{})
	return s.AddFieldLabelConversionFunc(gvk, func(label, value string) (string, string, error) {
		if _, there := fields[label]; there {
			return label, value, nil
		}
		return runtime.DefaultMetaV1FieldSelectorConversion(label, value)
	})
}
