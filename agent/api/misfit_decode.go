package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// namingSerializer is a serializer whose decoding errors name the invalid fields.
type namingSerializer struct{ runtime.NegotiatedSerializer }

// DecoderToVersion implements runtime.NegotiatedSerializer.
func (s namingSerializer) DecoderToVersion(d runtime.Decoder, gv runtime.GroupVersioner) runtime.Decoder {
	return namingDecoder{s.NegotiatedSerializer.DecoderToVersion(d, gv)}
}

// namingDecoder looks for the invalid fields only after decoding has failed, so that
// successful decoding costs nothing more.
type namingDecoder struct{ runtime.Decoder }

// Decode implements runtime.Decoder.
func (d namingDecoder) Decode(data []byte, gvk *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, actual, err := d.Decoder.Decode(data, gvk, into)
	if err == nil || into == nil || runtime.IsStrictDecodingError(err) {
		return obj, actual, err
	}
	document, notText := decodeDocument(data)
	if notText != nil {
		return obj, actual, err // not even JSON or YAML: the error says so
	}
	if faults := misfits(reflect.TypeOf(into), document, nil); len(faults) > 0 {
		err = misfitError(faults)
	}
	return obj, actual, err
}

var errNoDocument = errors.New("neither JSON nor YAML")

// decodeDocument reads JSON or, as in server-side apply, YAML. Numbers keep their
// digits: a float64 would take the largest int64 for a larger number.
func decodeDocument(body []byte) (any, error) {
	text, err := yaml.YAMLToJSON(body)
	if err != nil {
		return nil, errNoDocument
	}
	reader := json.NewDecoder(bytes.NewReader(text))
	reader.UseNumber()
	var document any
	if err := reader.Decode(&document); err != nil {
		return nil, errNoDocument
	}
	return document, nil
}
