package objects

import (
	"encoding/json"
	"fmt"
	"strconv"

	kjson "sigs.k8s.io/json"

	"virtmesh/raftstore"
)

// Encode returns the stored form of o: JSON with apiVersion and kind, without
// resourceVersion. It does not change o.
func Encode(o Object) ([]byte, error) {
	kind, err := KindOf(o)
	if err != nil {
		return nil, err
	}
	c := o.DeepCopyObject().(Object)
	c.SetResourceVersion("")
	c.SetSelfLink("")
	c.GetObjectKind().SetGroupVersionKind(kind.GVK)
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", kind.GVK.Kind, KeyOf(o), err)
	}
	return b, nil
}

// Decode returns the object of a record, with its resourceVersion filled in.
func Decode[T Object](rec raftstore.Record) (T, error) {
	o, err := decode(KindFor[T](), rec)
	if err != nil {
		var zero T
		return zero, err
	}
	return o.(T), nil
}

func decode(kind *Kind, rec raftstore.Record) (Object, error) {
	o := kind.New()
	if err := kjson.UnmarshalCaseSensitivePreserveInts(rec.Value, o); err != nil {
		return nil, fmt.Errorf("decode %s: %w", rec.Key, err)
	}
	o.GetObjectKind().SetGroupVersionKind(kind.GVK)
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
