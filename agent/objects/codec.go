package objects

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"

	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"

	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
)

// Codec encodes and decodes objects of one kind in their stored form: JSON with
// apiVersion and kind, without resourceVersion. The API's storage, the transactions and
// the caches all use it, so they have the same bytes for the same object.
//
// It works on plain values, and whether a write changes anything is decided by
// comparing plain values. A Transformer may change them further on their way to the
// replicated store.
type Codec struct{ kind *Kind }

// CodecOf returns the codec of a kind.
func CodecOf(kind *Kind) Codec { return Codec{kind} }

// Encode returns the value of o. It does not modify o, not even temporarily, so it may
// be called on shared objects.
func (c Codec) Encode(o Object) ([]byte, error) { return c.encode(o, "") }

// EncodeCopy is Encode but keeps the object's resourceVersion: decoding the result
// gives the same object. The result is not for storing.
func (c Codec) EncodeCopy(o Object) ([]byte, error) { return c.encode(o, o.GetResourceVersion()) }

func (c Codec) encode(o Object, resourceVersion string) ([]byte, error) {
	v := reflect.ValueOf(o)
	if v.Type() != reflect.TypeOf(c.kind.Object) || v.IsNil() {
		return nil, fmt.Errorf("encode %s: got a %T", c.kind.GVK.Kind, o)
	}
	shallow := reflect.New(v.Type().Elem())
	shallow.Elem().Set(v.Elem())
	top := shallow.Interface().(Object)
	top.SetResourceVersion(resourceVersion)
	top.SetSelfLink("")
	top.GetObjectKind().SetGroupVersionKind(c.kind.GVK)
	b, err := json.Marshal(top)
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", c.kind.GVK.Kind, KeyOf(o), err)
	}
	return b, nil
}

// Decode reads a value into o, after clearing o. The caller sets the resourceVersion
// from the record. It refuses a value that is still sealed: without what is sealed it would be
// another object.
func (c Codec) Decode(value []byte, o Object) error {
	if err := runtime.SetZeroValue(o); err != nil {
		return fmt.Errorf("decode %s: %w", c.kind.GVK.Kind, err)
	}
	if len(c.kind.Sealed) > 0 && sealed.IsSealed(value) {
		return fmt.Errorf("decode %s: it is encrypted, and was not opened", c.kind.GVK.Kind)
	}
	if err := decodeValue(value, o); err != nil {
		return fmt.Errorf("decode %s: %w", c.kind.GVK.Kind, err)
	}
	o.GetObjectKind().SetGroupVersionKind(c.kind.GVK)
	return nil
}

// decodeValue decodes a value of any kind into a Go value of any type.
func decodeValue(value []byte, into any) error {
	return kjson.UnmarshalCaseSensitivePreserveInts(value, into)
}

// DecodeShape decodes only the fields of a stored object that into has, whatever its
// kind: the metadata alone, for example.
func DecodeShape(rec raftstore.Record, into any) error {
	if err := decodeValue(rec.Value, into); err != nil {
		return fmt.Errorf("decode %s: %w", rec.Key, err)
	}
	return nil
}

// Encode returns the value of o, encoded by the codec of its kind.
func Encode(o Object) ([]byte, error) {
	kind, err := KindOf(o)
	if err != nil {
		return nil, err
	}
	return CodecOf(kind).Encode(o)
}

// Decode returns the object of a record, with its resourceVersion filled in.
func Decode[T Object](rec raftstore.Record) (T, error) {
	o, err := decodeRecord(KindFor[T](), rec)
	if err != nil {
		var zero T
		return zero, err
	}
	return o.(T), nil
}

func decodeRecord(kind *Kind, rec raftstore.Record) (Object, error) {
	o := kind.New()
	if err := CodecOf(kind).Decode(rec.Value, o); err != nil {
		return nil, fmt.Errorf("%s: %w", rec.Key, err)
	}
	o.SetResourceVersion(strconv.FormatUint(rec.ModRevision, 10))
	return o, nil
}

// Revision returns the revision at which o was last changed in the store; zero
// for an object that was never stored.
func Revision(o Object) (uint64, error) {
	rv := o.GetResourceVersion()
	if rv == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(rv, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resourceVersion %q of %s is not a number", rv, KeyOf(o))
	}
	return n, nil
}
