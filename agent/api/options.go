package api

import (
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	apistorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"virtmesh/agent/api/store"
	"virtmesh/agent/kinds"
)

// deleteWorkers is how many objects of a collection are deleted in parallel.
const deleteWorkers = 4

// restOptions says where the objects of each resource are stored.
type restOptions struct {
	backend  store.Backend
	patience time.Duration
	turns    *store.Turns
}

var _ generic.RESTOptionsGetter = (*restOptions)(nil)

// GetRESTOptions implements generic.RESTOptionsGetter. It is also called for resources
// that store nothing; it gives these a prefix of their own.
func (o *restOptions) GetRESTOptions(gr schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	k, ok := kinds.ByResource(gr)
	if !ok {
		return generic.RESTOptions{ResourcePrefix: "/virtual/" + gr.String()}, nil
	}
	codec := store.NewCodec(k)
	return generic.RESTOptions{
		StorageConfig: &storagebackend.ConfigForResource{
			Config:        storagebackend.Config{Codec: codec, EncodeVersioner: k.GVK.GroupVersion()},
			GroupResource: gr,
		},
		Decorator:               o.storageDecorator(k, codec),
		EnableGarbageCollection: true,
		DeleteCollectionWorkers: deleteWorkers,
		ResourcePrefix:          strings.TrimSuffix(k.Prefix(), "/"),
	}, nil
}

// storageDecorator returns the function with which the registry makes its storage for
// k.
func (o *restOptions) storageDecorator(k *kinds.Kind, codec runtime.Codec) generic.StorageDecorator {
	return func(_ *storagebackend.ConfigForResource, prefix string, _ func(runtime.Object) (string, error),
		newFunc, _ func() runtime.Object, _ apistorage.AttrFunc, _ apistorage.IndexerFuncs, _ *cache.Indexers) (apistorage.Interface, factory.DestroyFunc, error) {
		s := store.New(store.Config{
			Backend:      o.backend,
			Codec:        codec,
			Resource:     k.GroupResource(),
			Prefix:       prefix,
			New:          newFunc,
			InNamespaces: k.Namespaced,
			Patience:     o.patience,
			Turns:        o.turns,
		})
		return s, func() {}, nil
	}
}
