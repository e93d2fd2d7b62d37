// Package k8scni holds the Go types of the k8s.cni.cncf.io/v1 API group: the
// NetworkAttachmentDefinition, by which a namespace names a secondary network
// that virtual machines attach to.
//
// The types carry the wire format only. What a spec.config means on a host is
// decided by the network code; this package neither parses nor validates it.
package k8scni

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of the kinds in this package.
const GroupName = "k8s.cni.cncf.io"

// ResourceNetworkAttachmentDefinitions is the plural resource name.
const ResourceNetworkAttachmentDefinitions = "network-attachment-definitions"

// SchemeGroupVersion is the group and version these types are served at.
var SchemeGroupVersion = schema.GroupVersion{Group: GroupName, Version: "v1"}

// NetworkAttachmentDefinition names a network that instances of its namespace
// may attach to.
type NetworkAttachmentDefinition struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec describes the network.
	// +optional
	Spec NetworkAttachmentDefinitionSpec `json:"spec,omitempty"`
}

// NetworkAttachmentDefinitionSpec is the wanted network.
type NetworkAttachmentDefinitionSpec struct {
	// Config is a CNI network configuration, or configuration list, in JSON.
	// +optional
	Config string `json:"config,omitempty"`
}

// NetworkAttachmentDefinitionList is a list of NetworkAttachmentDefinition.
type NetworkAttachmentDefinitionList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []NetworkAttachmentDefinition `json:"items"`
}

var (
	_ runtime.Object = (*NetworkAttachmentDefinition)(nil)
	_ runtime.Object = (*NetworkAttachmentDefinitionList)(nil)
)

// AddToScheme registers the kinds of this group.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(SchemeGroupVersion, &NetworkAttachmentDefinition{}, &NetworkAttachmentDefinitionList{})
	metav1.AddToGroupVersion(s, SchemeGroupVersion)
	return nil
}
