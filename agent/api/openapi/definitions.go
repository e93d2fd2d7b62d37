package openapi

import (
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	nadPackage = "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1."
	objectMeta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
	listMeta   = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"
)

// Definitions returns the OpenAPI definitions of all served types: the generated ones,
// and those of NetworkAttachmentDefinition, whose package has no markers for the
// generator.
func Definitions(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
	all := GetOpenAPIDefinitions(ref)
	all[nadPackage+"NetworkAttachmentDefinitionSpec"] = object("is the wanted network.", map[string]spec.Schema{
		"config": text("Config is a CNI network configuration, or configuration list, in JSON."),
	})
	all[nadPackage+"NetworkAttachmentDefinition"] = object("names a network that instances of its namespace may attach to.", map[string]spec.Schema{
		"apiVersion": text("The versioned schema of this object."),
		"kind":       text("The kind of this object."),
		"metadata":   *spec.RefSchema(refTo(ref, objectMeta)),
		"spec":       *spec.RefSchema(refTo(ref, nadPackage+"NetworkAttachmentDefinitionSpec")),
	}, objectMeta, nadPackage+"NetworkAttachmentDefinitionSpec")
	list := object("is a list of NetworkAttachmentDefinition.", map[string]spec.Schema{
		"apiVersion": text("The versioned schema of this object."),
		"kind":       text("The kind of this object."),
		"metadata":   *spec.RefSchema(refTo(ref, listMeta)),
		"items":      *spec.ArrayProperty(spec.RefSchema(refTo(ref, nadPackage+"NetworkAttachmentDefinition"))),
	}, listMeta, nadPackage+"NetworkAttachmentDefinition")
	list.Schema.Required = []string{"items"}
	all[nadPackage+"NetworkAttachmentDefinitionList"] = list
	return all
}

func refTo(ref common.ReferenceCallback, name string) string {
	r := ref(name)
	return r.String()
}

func text(description string) spec.Schema {
	s := spec.StringProperty().WithDescription(description)
	s.Default = ""
	return *s
}

func object(description string, properties map[string]spec.Schema, dependencies ...string) common.OpenAPIDefinition {
	s := spec.Schema{SchemaProps: spec.SchemaProps{
		Description: description,
		Type:        []string{"object"},
		Properties:  properties,
	}}
	return common.OpenAPIDefinition{Schema: s, Dependencies: dependencies}
}
