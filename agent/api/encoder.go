package api

import (
	"bytes"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"virtmesh/agent/api/store"
)

// undecodedSerializer is a serializer that also encodes the undecoded objects and lists of
// package store: as JSON without decoding them, otherwise after that.
type undecodedSerializer struct{ runtime.NegotiatedSerializer }

// EncoderForVersion implements runtime.NegotiatedSerializer.
func (s undecodedSerializer) EncoderForVersion(e runtime.Encoder, gv runtime.GroupVersioner) runtime.Encoder {
	out := decodingEncoder{s.NegotiatedSerializer.EncoderForVersion(e, gv)}
	// Pretty JSON has another encoder.
	if info, ok := runtime.SerializerInfoForMediaType(s.SupportedMediaTypes(), runtime.ContentTypeJSON); ok && e == info.Serializer {
		return jsonEncoder{out}
	}
	if _, ok := out.Encoder.(runtime.EncoderWithAllocator); ok {
		return allocatingEncoder{out, s.encodesProtobuf(e)}
	}
	return out
}

// encodesProtobuf reports whether e encodes whole answers as protobuf.
func (s undecodedSerializer) encodesProtobuf(e runtime.Encoder) bool {
	info, ok := runtime.SerializerInfoForMediaType(s.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	return ok && e == info.Serializer
}

// decodingEncoder decodes what it encodes.
type decodingEncoder struct{ runtime.Encoder }

// Encode implements runtime.Encoder.
func (e decodingEncoder) Encode(obj runtime.Object, w io.Writer) error {
	obj, err := store.Decoded(obj)
	if err != nil {
		return err
	}
	return e.Encoder.Encode(obj, w)
}

// allocatingEncoder is a decodingEncoder of an encoder that can be given its memory.
type allocatingEncoder struct {
	decodingEncoder
	protobuf bool
}

var _ runtime.EncoderWithAllocator = allocatingEncoder{}

// EncodeWithAllocator implements runtime.EncoderWithAllocator.
func (e allocatingEncoder) EncodeWithAllocator(obj runtime.Object, w io.Writer, memory runtime.MemoryAllocator) error {
	if list, ok := obj.(*store.UndecodedList); ok && e.protobuf {
		if ok, err := list.WriteProtobuf(w); ok {
			return err
		}
	}
	obj, err := store.Decoded(obj)
	if err != nil {
		return err
	}
	return e.Encoder.(runtime.EncoderWithAllocator).EncodeWithAllocator(obj, w, memory)
}

// jsonEncoder encodes as JSON on one line.
type jsonEncoder struct{ decodingEncoder }

// Encode implements runtime.Encoder.
func (e jsonEncoder) Encode(obj runtime.Object, w io.Writer) error {
	switch obj := obj.(type) {
	case *store.Undecoded:
		return obj.WriteJSON(w)
	case *store.UndecodedList:
		return obj.WriteJSON(w)
	case *metav1.WatchEvent:
		// The event's object is encoded already; the library would read all of it again.
		if raw := bytes.TrimSuffix(obj.Object.Raw, []byte("\n")); len(raw) > 0 && obj.Object.Object == nil {
			_, err := fmt.Fprintf(w, `{"type":%q,"object":%s}`+"\n", obj.Type, raw)
			return err
		}
	}
	return e.decodingEncoder.Encode(obj, w)
}
