package kinds

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"virtmesh/agent/vmi"
)

// All returns every served kind, with defaults taken from d.
func All(d vmi.Defaults) []*Kind {
	var all []*Kind
	for _, group := range [][]*Kind{
		coreKinds(),
		coordinationKinds(),
		storageKinds(),
		networkKinds(),
		kubevirtKinds(d),
		cdiKinds(),
		{meshConfigKind()},
	} {
		all = append(all, group...)
	}
	return all
}

// Check reports the first fault in a set of registrations.
func Check(all []*Kind) error {
	seen := map[string]bool{}
	for _, k := range all {
		if err := k.validate(); err != nil {
			return err
		}
		for _, id := range []string{k.GVK.String(), k.GVK.Group + "/" + k.Resource} {
			if seen[id] {
				return fmt.Errorf("kind %v: %s is registered twice", k.GVK, id)
			}
			seen[id] = true
		}
	}
	return nil
}

// AddToScheme registers the Go types of all in s. The served types are their own
// internal versions, so nothing is ever converted.
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
		if err := s.AddFieldLabelConversionFunc(k.GVK, k.fieldLabel); err != nil {
			return fmt.Errorf("kind %v: %w", k.GVK, err)
		}
	}
	return nil
}

// fieldLabel says which fields can be selected by.
func (k *Kind) fieldLabel(label, value string) (string, string, error) {
	if _, ok := k.Fields[label]; ok || label == "metadata.name" || label == "metadata.namespace" && k.Namespaced {
		return label, value, nil
	}
	return "", "", fmt.Errorf("%q is not a field that %s can be selected by", label, k.Resource)
}

// ageOf is the value of the AGE column.
func ageOf(obj runtime.Object) any {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil
	}
	return sinceHuman(m.GetCreationTimestamp())
}
