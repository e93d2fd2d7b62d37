package kinds

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Root is the prefix of the store keys of all objects. The key of an object is
// /registry/GROUP/RESOURCE/NAMESPACE/NAME, or /registry/GROUP/RESOURCE/NAME if its kind
// is cluster-scoped. The core group, whose name is empty, is written "core".
const Root = "/registry/"

// coreGroup stands for the core group, whose name is empty, in store keys.
const coreGroup = "core"

// Key names an object within its kind.
type Key = types.NamespacedName

// KeyOf returns the key of o.
func KeyOf(o metav1.Object) Key { return Key{Namespace: o.GetNamespace(), Name: o.GetName()} }

// Prefix returns the common prefix of the store keys of all objects of the kind.
func (k *Kind) Prefix() string {
	group := k.GVK.Group
	if group == "" {
		group = coreGroup
	}
	return Root + group + "/" + k.Resource + "/"
}

// NamespacePrefix returns the common prefix of the store keys of the objects in
// namespace; of all objects if namespace is empty or the kind is cluster-scoped.
func (k *Kind) NamespacePrefix(namespace string) string {
	if namespace == "" || !k.Namespaced {
		return k.Prefix()
	}
	return k.Prefix() + namespace + "/"
}

// StoreKey returns the store key of the object that key names.
func (k *Kind) StoreKey(key Key) string { return k.NamespacePrefix(key.Namespace) + key.Name }

// ParseKey is the inverse of StoreKey. ok is false for keys of other kinds.
func (k *Kind) ParseKey(storeKey string) (key Key, ok bool) {
	rest, ok := strings.CutPrefix(storeKey, k.Prefix())
	if !ok || rest == "" {
		return Key{}, false
	}
	if !k.Namespaced {
		return Key{Name: rest}, !strings.Contains(rest, "/")
	}
	namespace, name, ok := strings.Cut(rest, "/")
	return Key{Namespace: namespace, Name: name}, ok && namespace != "" && name != "" && !strings.Contains(name, "/")
}

// Location is what a store key says about an object, even if the object's kind is not
// in the catalogue.
type Location struct {
	// Resource is the group and plural name of the object's kind.
	Resource schema.GroupResource
	// Key has an empty namespace for a cluster-scoped object.
	Key Key
}

// ParseLocation parses a store key. ok is false for keys of records that are not
// objects, such as claims.
func ParseLocation(storeKey string) (l Location, ok bool) {
	rest, found := strings.CutPrefix(storeKey, Root)
	if !found {
		return Location{}, false
	}
	parts := strings.Split(rest, "/")
	for _, part := range parts {
		if part == "" {
			return Location{}, false
		}
	}
	switch len(parts) {
	case 3:
		l.Key = Key{Name: parts[2]}
	case 4:
		l.Key = Key{Namespace: parts[2], Name: parts[3]}
	default:
		return Location{}, false
	}
	l.Resource = schema.GroupResource{Group: parts[0], Resource: parts[1]}
	if parts[0] == coreGroup {
		l.Resource.Group = ""
	}
	return l, true
}

// ParseStoreKey returns the kind and the key of the object at a store key. ok is false
// for keys of records that are not objects, and of kinds that are not in the catalogue.
func ParseStoreKey(storeKey string) (kind *Kind, key Key, ok bool) {
	l, ok := ParseLocation(storeKey)
	if !ok {
		return nil, Key{}, false
	}
	if kind, ok = ByResource(l.Resource); !ok {
		return nil, Key{}, false
	}
	key, ok = kind.ParseKey(storeKey)
	return kind, key, ok
}
