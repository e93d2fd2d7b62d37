package api

import (
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
	name := definitionName(namer)
	c.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(openapi.Definitions, namer)
	c.OpenAPIConfig.Info.Title = "virtmesh"
	c.OpenAPIConfig.GetDefinitionName = name

	v3 := genericapiserver.DefaultOpenAPIV3Config(openapi.Definitions, namer)
	v3.Info.Title = "virtmesh"
	v3.GetDefinitionName = name
	// The library has made the definitions already, with its own names.
	v3.Definitions = openapi.Definitions(func(path string) spec.Ref {
		n, _ := name(path)
		return spec.MustCreateRef("#/components/schemas/" + common.EscapeJsonPointer(n))
	})
	c.OpenAPIV3Config = v3
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
