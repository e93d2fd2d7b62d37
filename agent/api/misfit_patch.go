package api

import (
	"bytes"
	"io"
	"net/http"
	"reflect"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apitypes "k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"virtmesh/agent/kinds"
)

// maxPatch is how many bytes of a patch are checked: the maximum that the library
// accepts.
const maxPatch = 3 << 20

// checkPatches refuses patches with values that their fields cannot hold, and names the
// fields. The library detects such values only after it has merged the patch; its error
// then names the whole object, or is an internal error.
func checkPatches(next http.Handler, serializer runtime.NegotiatedSerializer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k, info := patchedKind(r)
		if k == nil {
			next.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, maxPatch+1))
		rest := r.Body
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(body), rest), rest}
		if err != nil || len(body) > maxPatch {
			next.ServeHTTP(w, r) // finds the same error and answers with it
			return
		}
		if faults := patchMisfits(k, r.Header.Get("Content-Type"), body); len(faults) > 0 {
			invalid := apierrors.NewInvalid(k.GVK.GroupKind(), info.Name, faults)
			responsewriters.ErrorNegotiated(invalid, serializer, k.GVK.GroupVersion(), w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// patchedKind returns the kind of the object that a request patches, nil if the request
// is not a patch.
func patchedKind(r *http.Request) (*kinds.Kind, *genericapirequest.RequestInfo) {
	info, ok := genericapirequest.RequestInfoFrom(r.Context())
	if !ok || !info.IsResourceRequest || info.Verb != "patch" || r.Body == nil {
		return nil, nil
	}
	k, ok := kinds.ByResource(schema.GroupResource{Group: info.APIGroup, Resource: info.Resource})
	if !ok || k.GVK.Version != info.APIVersion || info.Subresource != "" && info.Subresource != "status" {
		return nil, nil
	}
	return k, info
}

// patchMisfits returns the misfits in a patch of an object of kind k. For an invalid
// patch it returns none: the library reports it.
func patchMisfits(k *kinds.Kind, contentType string, body []byte) field.ErrorList {
	document, err := decodeDocument(body)
	if err != nil {
		return nil
	}
	typ := reflect.TypeOf(k.Object)
	contentType, _, _ = strings.Cut(contentType, ";")
	switch apitypes.PatchType(contentType) {
	case apitypes.MergePatchType, apitypes.StrategicMergePatchType, apitypes.ApplyYAMLPatchType:
		return misfits(typ, document, nil)
	case apitypes.JSONPatchType:
		return operationMisfits(typ, document)
	}
	return nil
}

// operationMisfits checks the values of a JSON patch against the types at their paths.
func operationMisfits(typ reflect.Type, document any) field.ErrorList {
	operations, _ := document.([]any)
	var errs field.ErrorList
	for _, o := range operations {
		operation, _ := o.(map[string]any)
		pointer, _ := operation["path"].(string)
		value, there := operation["value"]
		if op := operation["op"]; !there || op != "add" && op != "replace" {
			continue
		}
		if at, path := typeAt(typ, pointer); at != nil {
			errs = append(errs, misfits(at, value, path)...)
		}
	}
	return errs
}

// typeAt follows a JSON pointer into a type; it returns nil if the pointer does not
// match the type.
func typeAt(typ reflect.Type, pointer string) (reflect.Type, *field.Path) {
	var path *field.Path
	if pointer == "" {
		return typ, path
	}
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for _, part := range strings.Split(strings.TrimPrefix(pointer, "/"), "/") {
		part = unescape.Replace(part)
		for typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		switch typ.Kind() {
		case reflect.Struct:
			next := fieldNamed(typ, part)
			if next == nil {
				return nil, nil
			}
			typ, path = next, path.Child(part)
		case reflect.Map:
			typ, path = typ.Elem(), path.Key(part)
		case reflect.Slice:
			typ, path = typ.Elem(), path.Key(part)
		default:
			return nil, nil
		}
	}
	return typ, path
}

// fieldNamed returns the type of the field with the given JSON name, nil if there is
// none.
func fieldNamed(typ reflect.Type, name string) reflect.Type {
	for i := range typ.NumField() {
		f := typ.Field(i)
		own, inline := jsonName(f)
		if inline && f.Type.Kind() == reflect.Struct {
			if t := fieldNamed(f.Type, name); t != nil {
				return t
			}
		} else if own == name && own != "" {
			return f.Type
		}
	}
	return nil
}
