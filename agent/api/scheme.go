package api

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"virtmesh/agent/api/pods"
	"virtmesh/agent/api/reviews"
	"virtmesh/agent/api/subresources"
	"virtmesh/agent/kinds"
)

// types holds the Go types of everything that is served, and their encodings.
type types struct {
	scheme     *runtime.Scheme
	codecs     serializer.CodecFactory
	parameters runtime.ParameterCodec
}

func newTypes(all []*kinds.Kind) (*types, error) {
	s := runtime.NewScheme()
	if err := kinds.AddToScheme(s, all); err != nil {
		return nil, err
	}
	for _, add := range []func(*runtime.Scheme) error{subresources.AddToScheme, reviews.AddToScheme, pods.AddToScheme} {
		if err := add(s); err != nil {
			return nil, err
		}
	}
	// On every path, options and errors have version v1 of the core group.
	v1 := schema.GroupVersion{Version: "v1"}
	metav1.AddToGroupVersion(s, v1)
	s.AddUnversionedTypes(v1,
		&metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	return &types{
		scheme:     s,
		codecs:     serializer.NewCodecFactory(s),
		parameters: runtime.NewParameterCodec(s),
	}, nil
}

// serializer returns the serializer of a group. Only groups whose types can be encoded
// as protobuf offer it; clients of the other groups then use JSON.
func (t *types) serializer(all []*kinds.Kind, group string) runtime.NegotiatedSerializer {
	codecs := serializer.NewCodecFactory(t.scheme,
		serializer.WithStreamingCollectionEncodingToJSON(), serializer.WithStreamingCollectionEncodingToProtobuf())
	for _, k := range all {
		if k.GVK.Group == group && !isProto(k.Object) {
			return namingSerializer{undecodedSerializer{jsonOnly{codecs}}}
		}
	}
	return namingSerializer{undecodedSerializer{codecs}}
}

// isProto reports whether an object can be encoded as protobuf.
func isProto(obj runtime.Object) bool {
	_, ok := obj.(interface{ MarshalTo([]byte) (int, error) })
	return ok
}

// jsonOnly removes protobuf from the supported media types.
type jsonOnly struct{ serializer.CodecFactory }

// SupportedMediaTypes implements runtime.NegotiatedSerializer.
func (j jsonOnly) SupportedMediaTypes() []runtime.SerializerInfo {
	var out []runtime.SerializerInfo
	for _, info := range j.CodecFactory.SupportedMediaTypes() {
		if info.MediaType != runtime.ContentTypeProtobuf {
			out = append(out, info)
		}
	}
	return out
}
