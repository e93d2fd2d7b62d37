package api

import (
	"fmt"
	"path"
	"sort"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	discoveryendpoint "k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/util"
)

// group is an API group at its only version, with the storage of its resources.
type group struct {
	version    schema.GroupVersion
	storage    map[string]rest.Storage
	serializer runtime.NegotiatedSerializer
	// listed is what discovery lists; nil for what the library makes of the storage.
	listed []metav1.APIResource
}

// installer adds API groups to a server. It does what the library's InstallAPIGroups
// does, except that it can set the type converter, which the library does not allow.
type installer struct {
	server    *genericapiserver.GenericAPIServer
	config    *genericapiserver.Config
	types     *types
	converter managedfields.TypeConverter
}

// newInstaller prepares the installation of groups.
func newInstaller(server *genericapiserver.GenericAPIServer, config *genericapiserver.Config, t *types, groups []group) (*installer, error) {
	var names []string
	for _, g := range groups {
		for resource, storage := range g.storage {
			gvk, err := genericapi.GetResourceKind(g.version, storage, t.scheme)
			if err != nil {
				return nil, fmt.Errorf("resource %s: %w", resource, err)
			}
			sample, err := t.scheme.New(gvk)
			if err != nil {
				return nil, fmt.Errorf("resource %s: %w", resource, err)
			}
			names = append(names, util.GetCanonicalTypeName(sample))
		}
	}
	schemas, err := builder3.BuildOpenAPIDefinitionsForResources(config.OpenAPIV3Config, names...)
	if err != nil {
		return nil, fmt.Errorf("build OpenAPI definitions: %w", err)
	}
	converter, err := newConverter(t.scheme, schemas)
	if err != nil {
		return nil, err
	}
	return &installer{server: server, config: config, types: t, converter: converter}, nil
}

// installGroup adds one group.
func (i *installer) installGroup(g group) error {
	root := genericapiserver.APIGroupPrefix
	if g.version.Group == "" {
		root = genericapiserver.DefaultLegacyAPIPrefix
	}
	resources, _, err := i.apiGroupVersion(root, g).InstallREST(i.server.Handler.GoRestfulContainer)
	if err != nil {
		return fmt.Errorf("install %s: %w", g.version, err)
	}
	if g.listed != nil {
		if resources, err = genericapi.ConvertGroupVersionIntoToDiscovery(g.listed); err != nil {
			return fmt.Errorf("list %s: %w", g.version, err)
		}
	}
	version := apidiscoveryv2.APIVersionDiscovery{
		Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent,
		Version:   g.version.Version,
		Resources: resources,
	}
	i.server.RegisterDestroyFunc(func() { destroy(g.storage) })
	i.registerReadiness(g)
	if g.version.Group == "" {
		i.server.AggregatedLegacyDiscoveryGroupManager.AddGroupVersion("", version)
		i.legacyDiscovery(root)
		return nil
	}
	i.server.AggregatedDiscoveryGroupManager.AddGroupVersion(g.version.Group, version)
	i.groupDiscovery(g)
	return nil
}

func (i *installer) apiGroupVersion(root string, g group) *genericapi.APIGroupVersion {
	served := map[string][]string{}
	for resource := range g.storage {
		served[resource] = []string{g.version.String()}
	}
	scheme := i.types.scheme
	v1 := schema.GroupVersion{Version: "v1"}
	return &genericapi.APIGroupVersion{
		Root:                        root,
		GroupVersion:                g.version,
		Storage:                     g.storage,
		AllServedVersionsByResource: served,
		OptionsExternalVersion:      &v1,
		Serializer:                  g.serializer,
		ParameterCodec:              i.types.parameters,
		Typer:                       scheme,
		Creater:                     scheme,
		Convertor:                   scheme,
		ConvertabilityChecker:       scheme,
		UnsafeConvertor:             runtime.UnsafeObjectConvertor(scheme),
		Defaulter:                   scheme,
		Namer:                       runtime.Namer(meta.NewAccessor()),
		TypeConverter:               i.converter,
		EquivalentResourceRegistry:  i.server.EquivalentResourceRegistry,
		Authorizer:                  i.config.Authorization.Authorizer,
		Admit:                       i.config.AdmissionControl,
		MinRequestTimeout:           minWatchTime,
		MaxRequestBodyBytes:         i.config.MaxRequestBodyBytes,
	}
}

// legacyDiscovery serves /api.
func (i *installer) legacyDiscovery(root string) {
	handler := discovery.NewLegacyRootAPIHandler(i.config.DiscoveryAddresses, i.config.Serializer, root)
	manager := i.server.AggregatedLegacyDiscoveryGroupManager
	wrapped := discoveryendpoint.WrapAggregatedDiscoveryToHandler(handler, manager, manager)
	i.server.Handler.GoRestfulContainer.Add(wrapped.GenerateWebService(root, metav1.APIVersions{}))
}

// groupDiscovery lists the group in /apis and serves /apis/<group>.
func (i *installer) groupDiscovery(g group) {
	version := metav1.GroupVersionForDiscovery{GroupVersion: g.version.String(), Version: g.version.Version}
	api := metav1.APIGroup{
		Name:             g.version.Group,
		Versions:         []metav1.GroupVersionForDiscovery{version},
		PreferredVersion: version,
	}
	i.server.DiscoveryGroupManager.AddGroup(api)
	i.server.Handler.GoRestfulContainer.Add(discovery.NewAPIGroupHandler(i.config.Serializer, api).WebService())
}

// registerReadiness makes /readyz wait for storage that is not ready at once.
func (i *installer) registerReadiness(g group) {
	for resource, storage := range g.storage {
		if r, ok := storage.(rest.StorageWithReadiness); ok {
			gvr := metav1.GroupVersionResource{Group: g.version.Group, Version: g.version.Version, Resource: resource}
			i.server.StorageReadinessHook.RegisterStorage(gvr, r)
		}
	}
}

func destroy(storage map[string]rest.Storage) {
	for _, s := range storage {
		s.Destroy()
	}
}

// sortGroups sorts groups into the order in which discovery lists them.
func sortGroups(groups []group) {
	sort.Slice(groups, func(a, b int) bool {
		return path.Join(groups[a].version.Group, groups[a].version.Version) < path.Join(groups[b].version.Group, groups[b].version.Version)
	})
}
