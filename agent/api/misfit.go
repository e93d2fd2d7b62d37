package api

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// misfits returns an error for each value in a JSON document that its Go type cannot
// hold: a word where a number is required, or a quantity such as "128MiB". The decoders
// of the Kubernetes libraries stop at such a value without naming its field.
//
// Unknown fields and null are not misfits: strict field validation and merging handle
// them.
func misfits(typ reflect.Type, value any, path *field.Path) field.ErrorList {
	if value == nil {
		return nil
	}
	if typ.Kind() == reflect.Pointer {
		return misfits(typ.Elem(), value, path)
	}
	if reflect.PointerTo(typ).Implements(unmarshaler) {
		// Some structs implement json.Unmarshaler and have fields all the same: check
		// the fields first.
		if _, ok := value.(map[string]any); ok && typ.Kind() == reflect.Struct {
			if errs := misfitStruct(typ, value, path); len(errs) > 0 {
				return errs
			}
		}
		return misfitLeaf(typ, value, path)
	}
	switch typ.Kind() {
	case reflect.Struct:
		return misfitStruct(typ, value, path)
	case reflect.Map:
		m, ok := value.(map[string]any)
		if !ok {
			return wrongType(path, value, "an object")
		}
		var errs field.ErrorList
		for _, key := range sortedKeys(m) {
			errs = append(errs, misfits(typ.Elem(), m[key], path.Key(key))...)
		}
		return errs
	case reflect.Slice:
		return misfitSlice(typ, value, path)
	}
	return misfitLeaf(typ, value, path)
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

func misfitStruct(typ reflect.Type, value any, path *field.Path) field.ErrorList {
	m, ok := value.(map[string]any)
	if !ok {
		return wrongType(path, value, "an object")
	}
	var errs field.ErrorList
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, inline := jsonName(f)
		if inline {
			errs = append(errs, misfits(f.Type, value, path)...)
			continue
		}
		if v, there := m[name]; there && name != "" {
			errs = append(errs, misfits(f.Type, v, path.Child(name))...)
		}
	}
	return errs
}

// jsonName returns the name of a field in JSON, empty if it is not in the JSON, and
// whether it is an inlined struct.
func jsonName(f reflect.StructField) (name string, inline bool) {
	name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	switch {
	case name == "-" || !f.IsExported():
		return "", false
	case name == "" && (f.Anonymous || strings.Contains(options, "inline")):
		return "", true
	case name == "":
		return f.Name, false
	}
	return name, false
}

func misfitSlice(typ reflect.Type, value any, path *field.Path) field.ErrorList {
	if typ.Elem().Kind() == reflect.Uint8 {
		s, ok := value.(string)
		if !ok {
			return wrongType(path, value, "a string in base64")
		}
		if _, err := base64.StdEncoding.DecodeString(s); err != nil {
			return field.ErrorList{field.Invalid(path, s, "must be in base64: "+err.Error())}
		}
		return nil
	}
	list, ok := value.([]any)
	if !ok {
		return wrongType(path, value, "a list")
	}
	var errs field.ErrorList
	for i, v := range list {
		errs = append(errs, misfits(typ.Elem(), v, path.Index(i))...)
	}
	return errs
}

// misfitLeaf checks a value that its type decodes itself.
func misfitLeaf(typ reflect.Type, value any, path *field.Path) field.ErrorList {
	text, err := json.Marshal(value)
	if err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	if err := json.Unmarshal(text, reflect.New(typ).Interface()); err != nil {
		return field.ErrorList{field.Invalid(path, summarize(value), leafError(typ, err))}
	}
	return nil
}

// leafError says what a correct value would be.
func leafError(typ reflect.Type, err error) string {
	switch {
	case typ == reflect.TypeFor[resource.Quantity]():
		return `must be a quantity: a number with one of the units m, k, M, G, T, P, E, Ki, Mi, Gi, Ti, Pi, Ei or none, such as "128Mi"`
	case typ.Kind() == reflect.Bool:
		return "must be true or false"
	case typ.Kind() == reflect.String:
		return "must be a string"
	case typ.Kind() >= reflect.Int && typ.Kind() <= reflect.Uint64:
		return "must be a whole number within the range of " + typ.Kind().String()
	case typ.Kind() == reflect.Float32 || typ.Kind() == reflect.Float64:
		return "must be a number"
	}
	return err.Error()
}

func wrongType(path *field.Path, value any, want string) field.ErrorList {
	if path == nil {
		path = field.NewPath("")
	}
	return field.ErrorList{field.TypeInvalid(path, summarize(value), "must be "+want)}
}

// summarize returns value as messages show it: a short text for an object or a list, and
// a plain number for a json.Number.
func summarize(value any) any {
	switch v := value.(type) {
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if n, err := v.Float64(); err == nil {
			return n
		}
	}
	return value
}

// unifyQuantities rewrites the quantities in a JSON document of type typ, in place, to
// the form that stored objects have: 2 becomes "2" and "1024Mi" becomes "1Gi". So two
// spellings of a quantity are equal where values are compared as text.
func unifyQuantities(typ reflect.Type, value any) any {
	if value == nil {
		return nil
	}
	if typ == reflect.TypeFor[resource.Quantity]() {
		text, err := json.Marshal(value)
		if err != nil {
			return value
		}
		var q resource.Quantity
		if q.UnmarshalJSON(text) != nil {
			return value
		}
		return q.String()
	}
	switch typ.Kind() {
	case reflect.Pointer:
		return unifyQuantities(typ.Elem(), value)
	case reflect.Struct:
		if m, ok := value.(map[string]any); ok {
			unifyFields(typ, m)
		}
	case reflect.Map:
		if m, ok := value.(map[string]any); ok {
			for key, v := range m {
				m[key] = unifyQuantities(typ.Elem(), v)
			}
		}
	case reflect.Slice:
		if list, ok := value.([]any); ok {
			for i, v := range list {
				list[i] = unifyQuantities(typ.Elem(), v)
			}
		}
	}
	return value
}

func unifyFields(typ reflect.Type, m map[string]any) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, inline := jsonName(f)
		if inline {
			unifyQuantities(f.Type, m)
			continue
		}
		if v, there := m[name]; there && name != "" {
			m[name] = unifyQuantities(f.Type, v)
		}
	}
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// misfitError joins errors to one line.
func misfitError(errs field.ErrorList) error {
	texts := make([]string, len(errs))
	for i, e := range errs {
		texts[i] = e.Error()
	}
	return fmt.Errorf("%s", strings.Join(texts, "; "))
}
