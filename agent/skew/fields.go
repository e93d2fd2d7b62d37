package skew

import (
	"reflect"

	forkedjson "k8s.io/apimachinery/third_party/forked/golang/json"
)

// fieldOf returns the type of a field as it is named in JSON, and the merge key that the
// Kubernetes API gives to the elements of the list in it. Both are empty if they are not
// known.
func fieldOf(typ reflect.Type, name string) (field reflect.Type, mergeKey string) {
	switch typ = behind(typ); {
	case typ == nil:
		return nil, ""
	case typ.Kind() == reflect.Map:
		return typ.Elem(), ""
	case typ.Kind() != reflect.Struct:
		return nil, ""
	}
	field, _, mergeKey, err := forkedjson.LookupPatchMetadataForStruct(typ, name)
	if err != nil {
		return nil, "" // the type encodes itself as something else
	}
	return field, mergeKey
}

// elementOf returns the type of a list's elements, nil if it is not known.
func elementOf(typ reflect.Type) reflect.Type {
	if typ = behind(typ); typ != nil && typ.Kind() == reflect.Slice {
		return typ.Elem()
	}
	return nil
}

// behind returns the type that pointers of a type point to.
func behind(typ reflect.Type) reflect.Type {
	for typ != nil && typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	return typ
}
