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

// gvkExtension names the kinds of a schema. Server-side apply finds the schema of
// a kind by it.
const gvkExtension = "x-kubernetes-group-version-kind"

// setOpenAPI describes the served types in c.
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
	// The library has made the definitions already, with its own names.
	v3.Definitions = definitions(func(path string) spec.Ref {
		n, _ := name(path)
		return spec.MustCreateRef("#/components/schemas/" + common.EscapeJsonPointer(n))
	})
	c.OpenAPIV3Config = v3
}

// servedDefinitions returns the definitions of the types in scheme and of all they
// refer to. The generated ones cover whole packages, and all of them in memory
// would be several times as much.
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

// alwaysServed are definitions that the library's own paths refer to.
var alwaysServed = []string{
	"io.k8s.apimachinery.pkg.version.Info",
	"io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
}

// definitionName gives schemas their public names. The generator knows types
// without a model name by their Go import path, the library by the reversed form
// of it; and kinds that are their own internal version say so only here.
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
