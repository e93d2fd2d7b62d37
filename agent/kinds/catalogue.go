package kinds

import (
	"fmt"
	"reflect"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// register returns the registrations, in the order in which the documentation lists
// them.
func register() []*Kind {
	return []*Kind{
		virtualMachineKind(),
		virtualMachineInstanceKind(),
		migrationKind(),
		instancetypeKind(),
		clusterInstancetypeKind(),
		preferenceKind(),
		clusterPreferenceKind(),
		dataVolumeKind(),
		networkAttachmentDefinitionKind(),
		storageClassKind(),
		persistentVolumeClaimKind(),
		nodeKind(),
		meshConfigKind(),
		hyperConvergedKind(),
		operationKind(),
		namespaceKind(),
		secretKind(),
		configMapKind(),
		serviceAccountKind(),
		eventKind(),
		leaseKind(),
		roleKind(),
		clusterRoleKind(),
		roleBindingKind(),
		clusterRoleBindingKind(),
		resourceQuotaKind(),
	}
}

// index is the catalogue with maps to look up kinds.
type index struct {
	all        []*Kind
	byType     map[reflect.Type]*Kind
	byResource map[schema.GroupResource]*Kind
	byKind     map[schema.GroupKind]*Kind
}

var catalogue = sync.OnceValue(func() index {
	ix := index{register(), map[reflect.Type]*Kind{}, map[schema.GroupResource]*Kind{}, map[schema.GroupKind]*Kind{}}
	for _, k := range ix.all {
		ix.byType[reflect.TypeOf(k.Object)] = k
		ix.byResource[k.GroupResource()] = k
		ix.byKind[k.GVK.GroupKind()] = k
	}
	ix.addQuotas()
	return ix
})

// All returns every kind, in a fixed order. The kinds are shared and must not be
// changed.
func All() []*Kind { return slices.Clone(catalogue().all) }

// For returns the kind of the type T. It panics if T is not in the catalogue, which is
// an error in the program and not in its input.
func For[T Object]() *Kind {
	k, ok := catalogue().byType[reflect.TypeFor[T]()]
	if !ok {
		panic(fmt.Sprintf("kinds: no kind for type %s", reflect.TypeFor[T]()))
	}
	return k
}

// Of returns the kind of o, by its Go type.
func Of(o runtime.Object) (*Kind, error) {
	k, ok := catalogue().byType[reflect.TypeOf(o)]
	if !ok {
		return nil, fmt.Errorf("no kind of object has the Go type %T", o)
	}
	return k, nil
}

// ByResource returns the kind that is served as the resource gr.
func ByResource(gr schema.GroupResource) (*Kind, bool) {
	k, ok := catalogue().byResource[gr]
	return k, ok
}

// ByGroupKind returns the kind named gk, as owner references name it.
func ByGroupKind(gk schema.GroupKind) (*Kind, bool) {
	k, ok := catalogue().byKind[gk]
	return k, ok
}

// Check returns the first error in a set of registrations.
func Check(all []*Kind) error {
	seen := map[string]bool{}
	for _, k := range all {
		if err := k.validateKind(); err != nil {
			return err
		}
		for _, id := range []string{k.GVK.String(), k.Prefix(), reflect.TypeOf(k.Object).String()} {
			if seen[id] {
				return fmt.Errorf("kind %v: %s is registered twice", k.GVK, id)
			}
			seen[id] = true
		}
	}
	return nil
}

// AddToScheme registers the Go types of all in s. The served version of each kind is
// also its internal version, so nothing is ever converted.
func AddToScheme(s *runtime.Scheme, all []*Kind) error {
	versions := map[schema.GroupVersion]bool{}
	for _, k := range all {
		gv := k.GVK.GroupVersion()
		hub := schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}
		for _, at := range []schema.GroupVersion{gv, hub} {
			s.AddKnownTypeWithName(at.WithKind(k.GVK.Kind), k.New())
			s.AddKnownTypeWithName(at.WithKind(k.GVK.Kind+"List"), k.NewList())
		}
		if !versions[gv] {
			versions[gv] = true
			metav1.AddToGroupVersion(s, gv)
			if err := s.SetVersionPriority(gv); err != nil {
				return fmt.Errorf("kind %v: %w", k.GVK, err)
			}
		}
		if err := s.AddFieldLabelConversionFunc(k.GVK, k.checkFieldLabel); err != nil {
			return fmt.Errorf("kind %v: %w", k.GVK, err)
		}
	}
	return nil
}

// checkFieldLabel returns an error if objects cannot be selected by the field.
func (k *Kind) checkFieldLabel(label, value string) (string, string, error) {
	if _, ok := k.Fields[label]; ok || label == "metadata.name" || label == "metadata.namespace" && k.Namespaced {
		return label, value, nil
	}
	return "", "", fmt.Errorf("%q is not a field that %s can be selected by", label, k.Resource)
}
