package kinds

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Root is what the store keys of all objects begin with. An object is at
// /registry/GROUP/RESOURCE/NAMESPACE/NAME, or /registry/GROUP/RESOURCE/NAME if its
// kind has no namespaces. The group without a name is written "core".
const Root = "/registry/"

// coreGroup stands for the group without a name in store keys.
const coreGroup = "core"

// Key names an object within its kind.
type Key = types.NamespacedName

// KeyOf returns the key of o.
func KeyOf(o metav1.Object) Key { return Key{Namespace: o.GetNamespace(), Name: o.GetName()} }

// Prefix returns what the store keys of all objects of the kind begin with.
func (k *Kind) Prefix() string {
	group := k.GVK.Group
	if group == "" {
		group = coreGroup
	}
	return Root + group + "/" + k.Resource + "/"
}

// NamespacePrefix returns what the store keys of the objects in namespace begin
// with; of all objects if namespace is empty or the kind has none.
func (k *Kind) NamespacePrefix(namespace string) string {
	if namespace == "" || !k.Namespaced {
		return k.Prefix()
	}
	return k.Prefix() + namespace + "/"
}

// StoreKey returns the store key of the object that key names.
func (k *Kind) StoreKey(key Key) string { return k.NamespacePrefix(key.Namespace) + key.Name }

// ParseKey is the inverse of StoreKey. ok is false for keys that are not of the
// kind.
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

// Location is what a store key says of an object, also of one whose kind is not
// in the catalogue.
type Location struct {
	// Resource is the group and plural name of the object's kind.
	Resource schema.GroupResource
	// Key has no namespace if the object is in none.
	Key Key
}

// ParseLocation takes a store key apart. ok is false for keys of what is not an
// object, such as claims.
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

// ParseStoreKey tells which object a store key belongs to. ok is false for keys of
// what is not an object, and of kinds that are not in the catalogue.
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
