package skew

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"

	kjson "sigs.k8s.io/json"
)

// KeepUnknown returns the value to store when a record is written back: wanted, and with
// it everything in stored that this version does not know. All three are JSON:
//
//   - stored is the record as it is in the store;
//   - known is what this version makes of stored: decoded into typ and encoded again;
//   - wanted is the record to write, as this version encodes it.
//
// What is in stored but not in known is unknown, and stays where it is. What is in known
// but not in wanted was removed, with all that is in it. What is the same in known and in
// wanted was not changed, and stays as it is stored.
//
// The elements of a list are the same if they have the same merge key, which typ may name
// as the Kubernetes API does (the tag patchMergeKey), or the same name or type if all have
// one. Others are the same if they are equal or, when the list is as long as before, in
// the same place.
//
// If this version knows all of stored, the result is wanted itself. If stored equals
// known, nothing is decoded. typ may be nil.
func KeepUnknown(typ reflect.Type, stored, known, wanted []byte) ([]byte, error) {
	if bytes.Equal(stored, known) {
		return wanted, nil
	}
	s, err := parse(stored)
	if err != nil {
		return nil, fmt.Errorf("read the stored value: %w", err)
	}
	k, err := parse(known)
	if err != nil {
		return nil, fmt.Errorf("read what is known of the stored value: %w", err)
	}
	w, err := parse(wanted)
	if err != nil {
		return nil, fmt.Errorf("read the value to store: %w", err)
	}
	kept := keepValue(typ, "", s, k, w)
	if reflect.DeepEqual(kept, w) {
		return wanted, nil
	}
	value, err := json.Marshal(kept)
	if err != nil {
		return nil, fmt.Errorf("encode the value to store: %w", err)
	}
	return value, nil
}

// Rewrite returns the JSON to store for v in place of stored, a record of the same type,
// with the fields of stored that T does not have. Without a stored record it is v alone.
func Rewrite[T any](stored []byte, v T) ([]byte, error) {
	wanted, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	if len(stored) == 0 {
		return wanted, nil
	}
	known, err := KnownOf[T](stored)
	if err != nil {
		return nil, err
	}
	return KeepUnknown(reflect.TypeFor[T](), stored, known, wanted)
}

// KnownOf returns what this version knows of a JSON record: it decodes the record into a T
// and encodes it again.
func KnownOf[T any](stored []byte) ([]byte, error) {
	var v T
	if err := kjson.UnmarshalCaseSensitivePreserveInts(stored, &v); err != nil {
		return nil, fmt.Errorf("decode the stored %T: %w", v, err)
	}
	known, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return known, nil
}

// parse decodes a JSON document. Numbers stay text: a newer version may have some that no
// type of this one can hold.
func parse(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one JSON value")
	}
	return v, nil
}

// keepValue returns w with what s has and k lacks. mergeKey is that of the list w, if it
// is one and has a key.
func keepValue(typ reflect.Type, mergeKey string, s, k, w any) any {
	if reflect.DeepEqual(k, w) {
		return s
	}
	switch w := w.(type) {
	case map[string]any:
		s, inStored := s.(map[string]any)
		k, isKnown := k.(map[string]any)
		if inStored && isKnown {
			return keepObject(typ, s, k, w)
		}
	case []any:
		s, inStored := s.([]any)
		k, isKnown := k.([]any)
		if inStored && isKnown && len(s) == len(k) {
			return keepList(elementOf(typ), mergeKey, s, k, w)
		}
	}
	return w
}

func keepObject(typ reflect.Type, s, k, w map[string]any) map[string]any {
	out := make(map[string]any, max(len(s), len(w)))
	for name, stored := range s {
		known, isKnown := k[name]
		_, isWanted := w[name]
		if isWanted {
			continue
		}
		if !isKnown {
			out[name] = stored
		} else if kept := keepInEmpty(typ, name, stored, known); len(kept) > 0 {
			out[name] = kept
		}
	}
	for name, wanted := range w {
		stored, inStored := s[name]
		if !inStored {
			out[name] = wanted
			continue
		}
		known, isKnown := k[name]
		if !isKnown {
			known = emptyLike(stored)
		}
		fieldType, mergeKey := fieldOf(typ, name)
		out[name] = keepValue(fieldType, mergeKey, stored, known, wanted)
	}
	return out
}

// keepInEmpty returns what stays of a field that is not in the value to write. A struct
// is a part of its parent: it can be empty, and left out for that, but not be removed.
func keepInEmpty(typ reflect.Type, name string, stored, known any) map[string]any {
	field, _ := fieldOf(typ, name)
	if field == nil || field.Kind() != reflect.Struct || behind(typ).Kind() == reflect.Map {
		return nil
	}
	kept, _ := keepValue(field, "", stored, known, map[string]any{}).(map[string]any)
	return kept
}

// emptyLike returns the known value of a field that this version left out when it encoded
// it again, because the field has nothing in it that this version knows.
func emptyLike(stored any) any {
	if _, ok := stored.(map[string]any); ok {
		return map[string]any{}
	}
	return nil
}

func keepList(elem reflect.Type, mergeKey string, s, k, w []any) []any {
	out := make([]any, len(w))
	for i, from := range matchElements(mergeKey, k, w) {
		out[i] = w[i]
		if from != nothing {
			out[i] = keepValue(elem, "", s[from], k[from], w[i])
		}
	}
	return out
}
