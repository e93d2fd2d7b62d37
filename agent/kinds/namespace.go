package kinds

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// nameLabel is the label with a namespace's name, for use by selectors.
const nameLabel = corev1.LabelMetadataName

func namespaceKind() *Kind {
	type ns = corev1.Namespace
	return &Kind{
		GVK: core("Namespace"), Resource: "namespaces", Singular: "namespace", ShortNames: []string{"ns"}, Status: true,
		Object: &ns{}, List: &corev1.NamespaceList{},
		Support: "works, with the deletion of what is in it",
		Writers: Writers{Spec: "users; those of the configuration by stewards/configuration; finalizers by the API and stewards/namespace", Status: "the API, stewards/namespace"},
		Finalizers: map[string]string{
			string(corev1.FinalizerKubernetes): "stewards/namespace",
		},
		ValidateName:   validation.ValidateNamespaceName,
		Default:        defaultWith(defaultNamespace),
		DefaultUpdate:  defaultUpdateWith(updateNamespace),
		ValidateUpdate: validateUpdateWith(validateNamespaceUpdate),
		Columns: []Column{
			column("Status", func(n *ns) any { return string(n.Status.Phase) }),
			age,
		},
		Fields: map[string]func(obj runtimeObject) string{
			"status.phase": forType(func(n *ns) string { return string(n.Status.Phase) }),
			"name":         forType(func(n *ns) string { return n.Name }),
		},
	}
}

// defaultNamespace sets the phase of a new namespace to Active and adds the finalizer
// that delays its deletion until its content is deleted.
func defaultNamespace(n *corev1.Namespace) {
	n.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	for _, f := range n.Spec.Finalizers {
		if f == corev1.FinalizerKubernetes {
			labelNamespace(n)
			return
		}
	}
	n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
	labelNamespace(n)
}

// updateNamespace restores what only the finalize subresource may change.
func updateNamespace(n, old *corev1.Namespace) {
	n.Spec.Finalizers = old.Spec.Finalizers
	n.Status = old.Status
	labelNamespace(n)
}

func labelNamespace(n *corev1.Namespace) {
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[nameLabel] = n.Name
}

func validateNamespaceUpdate(n, _ *corev1.Namespace) field.ErrorList {
	if n.Labels[nameLabel] != n.Name {
		return field.ErrorList{field.Invalid(field.NewPath("metadata", "labels").Key(nameLabel), n.Labels[nameLabel], "must be the name of the namespace")}
	}
	return nil
}

func core(kind string) schema.GroupVersionKind { return corev1.SchemeGroupVersion.WithKind(kind) }
