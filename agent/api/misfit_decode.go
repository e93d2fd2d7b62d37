package api

import (
	"encoding/json"
	"errors"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// namingSerializer is a serializer whose decoding errors name the fields at fault.
type namingSerializer struct{ runtime.NegotiatedSerializer }

// DecoderToVersion implements runtime.NegotiatedSerializer.
func (s namingSerializer) DecoderToVersion(d runtime.Decoder, gv runtime.GroupVersioner) runtime.Decoder {
	return namingDecoder{s.NegotiatedSerializer.DecoderToVersion(d, gv)}
}

// namingDecoder looks for the fields at fault once decoding has failed, so that it
// costs nothing as long as it does not.
type namingDecoder struct{ runtime.Decoder }

// Decode implements runtime.Decoder.
func (d namingDecoder) Decode(data []byte, gvk *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, actual, err := d.Decoder.Decode(data, gvk, into)
	if err == nil || into == nil || runtime.IsStrictDecodingError(err) {
		return obj, actual, err
	}
	var document any
	if yaml.Unmarshal(data, &document) != nil {
		return obj, actual, err // not even JSON or YAML: the error says so
	}
	if faults := misfits(reflect.TypeOf(into), document, nil); len(faults) > 0 {
		err = misfitError(faults)
	}
	return obj, actual, err
}

var errNotPatch = errors.New("not a patch of a known form")

// decodePatch reads a patch, which is JSON or, for server-side apply, YAML.
func decodePatch(body []byte) (any, error) {
	text, err := yaml.YAMLToJSON(body)
	if err != nil {
		return nil, errNotPatch
	}
	var document any
	if err := json.Unmarshal(text, &document); err != nil {
		return nil, errNotPatch
	}
	return document, nil
}
