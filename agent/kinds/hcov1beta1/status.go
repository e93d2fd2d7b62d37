package hcov1beta1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// HyperConvergedStatus says whether the configuration is in force.
type HyperConvergedStatus struct {
	// Conditions are ReconcileComplete, Available, Progressing, Degraded and Upgradeable, and
	// TaintedConfiguration while an annotation would change what no field can.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchMergeKey=type
	// +patchStrategy=merge
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`
	// RelatedObjects are objects that were made for this one: none.
	// +optional
	// +listType=atomic
	RelatedObjects []corev1.ObjectReference `json:"relatedObjects,omitempty"`
	// ObservedGeneration is the generation that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// DataImportCronTemplates are the images that the specification names.
	// +optional
	// +listType=atomic
	DataImportCronTemplates []DataImportCronTemplateStatus `json:"dataImportCronTemplates,omitempty"`
	// SystemHealthStatus is healthy, warning or error.
	// +optional
	SystemHealthStatus string `json:"systemHealthStatus,omitempty"`
}

// DataImportCronTemplateStatus is an image and what became of it.
type DataImportCronTemplateStatus struct {
	DataImportCronTemplate `json:",inline"`
	// Status says where the template comes from.
	// +optional
	Status DataImportCronStatus `json:"status,omitempty"`
}

// DataImportCronStatus says where a template comes from.
type DataImportCronStatus struct {
	// CommonTemplate is true if it comes with the product: never in a mesh.
	// +optional
	CommonTemplate bool `json:"commonTemplate,omitempty"`
}

// The conditions of a HyperConverged.
const (
	ReconcileComplete    = "ReconcileComplete"
	Available            = "Available"
	Progressing          = "Progressing"
	Degraded             = "Degraded"
	Upgradeable          = "Upgradeable"
	TaintedConfiguration = "TaintedConfiguration"
)
