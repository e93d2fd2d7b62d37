package kinds

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"virtmesh/agent/kinds/hcov1beta1"
	"virtmesh/agent/level"
)

func hyperConvergedKind() *Kind {
	type config = hcov1beta1.HyperConverged
	setDefaults := func(c *config) { hcov1beta1.SetDefaults(&c.Spec) }
	return &Kind{
		GVK: hcov1beta1.SchemeGroupVersion.WithKind("HyperConverged"), Resource: "hyperconvergeds", Singular: "hyperconverged",
		ShortNames: []string{"hco", "hcos"}, Categories: everything, Namespaced: true, Status: true, Generation: true,
		AlsoIn:       map[string]string{hcov1beta1.OtherNamespace: hcov1beta1.Namespace},
		FeatureLevel: level.Access,
		Object:       &config{}, List: &hcov1beta1.HyperConvergedList{},
		Support:        "works: the configuration as KubeVirt's clients know it, in one object; [hyperconverged.md](hyperconverged.md) says which fields act",
		Writers:        Writers{Spec: "users; stewards/configuration makes it", Status: "stewards/configuration"},
		ValidateName:   validateHyperConvergedName,
		Default:        defaultWith(setDefaults),
		DefaultUpdate:  defaultUpdateWith(func(c, _ *config) { setDefaults(c) }),
		Validate:       validateWith(validateHyperConverged),
		ValidateUpdate: validateUpdateWith(func(c, _ *config) field.ErrorList { return validateHyperConverged(c) }),
		Warnings:       forType(warnOfHyperConverged),
		Columns:        []Column{age},
	}
}

// validateHyperConvergedName allows only one name, so that there is only one object. Its
// signature is that of the library's name checks.
func validateHyperConvergedName(name string, _ bool) []string {
	if name != hcov1beta1.Name {
		return []string{fmt.Sprintf("must be %q: a mesh has one HyperConverged", hcov1beta1.Name)}
	}
	return nil
}

// jsonPatches are the annotations by which users of the operator change what no field can.
var jsonPatches = []string{
	"kubevirt.kubevirt.io/jsonpatch", "containerizeddataimporter.kubevirt.io/jsonpatch",
	"networkaddonsconfigs.kubevirt.io/jsonpatch", "ssp.kubevirt.io/jsonpatch",
}

// JSONPatches returns the annotations of c that are JSON patches of what a cluster has
// instead of its fields, sorted by name. Nothing in a mesh acts on them.
func JSONPatches(c *hcov1beta1.HyperConverged) []string {
	var found []string
	for _, name := range jsonPatches {
		if _, ok := c.Annotations[name]; ok {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// warnOfHyperConverged names what is set and does not act, and what the operator warns of.
func warnOfHyperConverged(c *hcov1beta1.HyperConverged) []string {
	var texts []string
	for _, name := range JSONPatches(c) {
		texts = append(texts, fmt.Sprintf("metadata.annotations[%s]: the patch is stored, and nothing acts on it: a mesh has no such object to patch", name))
	}
	if c.Spec.TuningPolicy == "highBurst" {
		texts = append(texts, "spec.tuningPolicy: the highBurst profile is deprecated as of v1.16.0 and will be removed in a future release")
	}
	for _, path := range changedFields(c) {
		setting, ok := hcov1beta1.SettingOf(path)
		if !ok || setting.State == hcov1beta1.Acting {
			continue
		}
		text := setting.Path + ": " + setting.Says()
		if !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return texts
}

// changedFields returns the paths of the fields in the specification that differ from their
// defaults, sorted.
func changedFields(c *hcov1beta1.HyperConverged) []string {
	var standard hcov1beta1.HyperConverged
	hcov1beta1.SetDefaults(&standard.Spec)
	have, err := leavesOf(c)
	if err != nil {
		return nil // what was decoded from JSON can be encoded
	}
	defaults, err := leavesOf(&standard)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(have)), func(path string) bool {
		return reflect.DeepEqual(have[path], defaults[path])
	})
}

// leavesOf returns the values in the specification that are not objects, by path.
func leavesOf(c *hcov1beta1.HyperConverged) (map[string]any, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(c)
	if err != nil {
		return nil, fmt.Errorf("read the fields of the object: %w", err)
	}
	leaves := map[string]any{}
	var walk func(path []string, value any)
	walk = func(path []string, value any) {
		members, ok := value.(map[string]any)
		if !ok {
			leaves[strings.Join(path, ".")] = value
			return
		}
		for name, member := range members {
			walk(append(slices.Clone(path), name), member)
		}
	}
	walk([]string{"spec"}, content["spec"])
	return leaves, nil
}
