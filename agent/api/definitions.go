package api

import (
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"virtmesh/agent/api/openapi"
)

// gvkExtension is the OpenAPI extension that lists the kinds of a schema. Server-side
// apply finds the schema of a kind by it.
const gvkExtension = "x-kubernetes-group-version-kind"

// setOpenAPI configures the OpenAPI documents of the served types in c.
func setOpenAPI(c *genericapiserver.Config, scheme *runtime.Scheme) {
	namer := apiopenapi.NewDefinitionNamer(scheme)
	definitions := servedDefinitions(scheme)
	name := definitionName(namer)
	c.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	c.OpenAPIConfig.Info.Title = "virtmesh"
	c.OpenAPIConfig.GetDefinitionName = name

	v3 := genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	v3.Info.Title = "virtmesh"
	v3.GetDefinitionName = name
	// The library has already built the definitions, with its own names.
	v3.Definitions = definitions(func(path string) spec.Ref {
		n, _ := name(path)
		return spec.MustCreateRef("#/components/schemas/" + common.EscapeJsonPointer(n))
	})
	c.OpenAPIV3Config = v3
}

// servedDefinitions returns the definitions of the types in scheme and of all types
// that they refer to. The generated definitions cover whole packages and would need
// several times as much memory.
func servedDefinitions(scheme *runtime.Scheme) common.GetOpenAPIDefinitions {
	return func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
		all := openapi.Definitions(ref)
		served := make(map[string]common.OpenAPIDefinition, len(all)/2)
		var add func(name string)
		add = func(name string) {
			d, ok := all[name]
			if _, done := served[name]; done || !ok {
				return
			}
			served[name] = d
			for _, dependency := range d.Dependencies {
				add(dependency)
			}
		}
		for _, typ := range scheme.AllKnownTypes() {
			add(util.GetCanonicalTypeName(reflect.New(typ).Interface()))
		}
		for _, name := range alwaysServed {
			add(name)
		}
		return served
	}
}

// alwaysServed lists definitions that the library's own paths refer to.
var alwaysServed = []string{
	"io.k8s.apimachinery.pkg.version.Info",
	"io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
}

// definitionName returns the public names of schemas. For types without a model name,
// the generator uses the Go import path and the library its reversed form. For kinds
// whose served version is also the internal one, it removes the internal version from
// the gvkExtension.
func definitionName(namer *apiopenapi.DefinitionNamer) func(string) (string, spec.Extensions) {
	return func(name string) (string, spec.Extensions) {
		if strings.Contains(name, "/") {
			name = util.ToRESTFriendlyName(name)
		}
		name, ext := namer.GetDefinitionName(name)
		gvks, ok := ext[gvkExtension].([]any)
		if !ok {
			return name, ext
		}
		var served []any
		for _, gvk := range gvks {
			if m, ok := gvk.(map[string]any); ok && m["version"] == runtime.APIVersionInternal {
				continue
			}
			served = append(served, gvk)
		}
		return name, spec.Extensions{gvkExtension: served}
	}
}
