package objects

import (
	"cmp"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"virtmesh/agent/kinds"
)

// Object is any stored API object; the type is always a pointer to a struct.
type Object = kinds.Object

// Kind describes one kind of object.
type Kind = kinds.Kind

// Key names an object within its kind.
type Key = kinds.Key

// KeyOf returns the key of o.
func KeyOf(o metav1.Object) Key { return kinds.KeyOf(o) }

// CompareKeys orders keys by namespace and name.
func CompareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// KindFor returns the kind of the type T. It panics if T is not in the catalogue, which
// is an error in the program and not in its input.
func KindFor[T Object]() *Kind { return kinds.For[T]() }

// KindOf returns the kind of o, by its Go type.
func KindOf(o Object) (*Kind, error) { return kinds.Of(o) }

// KindByGroupKind returns the kind named gk, as owner references name it.
func KindByGroupKind(gk schema.GroupKind) (*Kind, bool) { return kinds.ByGroupKind(gk) }

// ParseStoreKey returns the kind and the key of the object at a store key. ok is false
// for keys of claims and of kinds that are not in the catalogue.
func ParseStoreKey(storeKey string) (kind *Kind, key Key, ok bool) {
	return kinds.ParseStoreKey(storeKey)
}
