package api_test

import (
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// A value that its field cannot hold is the client's fault, in every way to write
// it, and the answer names the field and not the whole object.
func TestMisfitsAreNamed(t *testing.T) {
	h := start(t)
	vms := h.dynamic(t).Resource(vmResource).Namespace("default")
	if _, err := vms.Create(t.Context(), parse(t, vmManifest), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const memory = "spec.template.spec.domain.memory.guest"
	for name, c := range map[string]struct {
		path  []string
		value any
		field string
	}{
		"quantity": {strings.Split(memory, "."), "128MiB", memory},
		"boolean":  {[]string{"spec", "template", "spec", "domain", "ioThreadsPolicy"}, true, "spec.template.spec.domain.ioThreadsPolicy"},
		"number":   {[]string{"spec", "template", "spec", "domain", "cpu"}, map[string]any{"cores": "two"}, "spec.template.spec.domain.cpu.cores"},
		"object":   {[]string{"spec", "template"}, "x", "spec.template"},
		"list":     {[]string{"spec", "template", "spec", "volumes"}, map[string]any{"name": "x"}, "spec.template.spec.volumes"},
		"map":      {[]string{"metadata", "labels"}, map[string]any{"a": map[string]any{}}, "metadata.labels[a]"},
	} {
		bad := parse(t, vmManifest)
		if err := unstructured.SetNestedField(bad.Object, c.value, c.path...); err != nil {
			t.Fatal(err)
		}
		patch := bad.DeepCopy()
		other := bad.DeepCopy()
		other.SetName("other")
		text, err := patch.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		ways := map[string]func() error{
			"create": func() error {
				_, err := vms.Create(t.Context(), other, metav1.CreateOptions{})
				return err
			},
			"update": func() error {
				_, err := vms.Update(t.Context(), bad, metav1.UpdateOptions{})
				return err
			},
		}
		for _, typ := range []types.PatchType{types.MergePatchType, types.StrategicMergePatchType, types.ApplyPatchType} {
			ways[string(typ)] = func() error {
				_, err := vms.Patch(t.Context(), "testvm", typ, text, metav1.PatchOptions{FieldManager: "test"})
				return err
			}
		}
		if name == "quantity" {
			operation := fmt.Sprintf(`[{"op":"replace","path":"/%s","value":"128MiB"}]`, strings.Join(c.path, "/"))
			ways["JSON patch"] = func() error {
				_, err := vms.Patch(t.Context(), "testvm", types.JSONPatchType, []byte(operation), metav1.PatchOptions{})
				return err
			}
		}
		for way, write := range ways {
			err := write()
			if !apierrors.IsBadRequest(err) && !apierrors.IsInvalid(err) {
				t.Errorf("%s by %s: %v, want the client's fault", name, way, err)
			} else if !strings.Contains(err.Error(), c.field+": ") || len(err.Error()) > 500 {
				t.Errorf("%s by %s: %v, want one line that names %s", name, way, err, c.field)
			}
		}
	}
}

// What a patch leaves out or takes away is no misfit.
func TestPatchesThatFitPass(t *testing.T) {
	h := start(t)
	vms := h.dynamic(t).Resource(vmResource).Namespace("default")
	if _, err := vms.Create(t.Context(), parse(t, vmManifest), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		typ   types.PatchType
		patch string
	}{
		{types.MergePatchType, `{"metadata":{"labels":{"a":null}},"spec":{"template":{"spec":{"terminationGracePeriodSeconds":null}}}}`},
		{types.StrategicMergePatchType, `{"metadata":{"$retainKeys":["name"],"finalizers":null}}`},
		{types.StrategicMergePatchType, `{"spec":{"template":{"metadata":{"labels":{"$patch":"delete"}}}}}`},
		{types.MergePatchType, `{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":9223372036854775807}}}}`},
		{types.JSONPatchType, `[{"op":"add","path":"/metadata/annotations","value":{"a/b":"c"}},{"op":"remove","path":"/metadata/annotations/a~1b"}]`},
	} {
		if _, err := vms.Patch(t.Context(), "testvm", c.typ, []byte(c.patch), metav1.PatchOptions{}); err != nil {
			t.Errorf("%s: %v", c.typ, err)
		}
	}
}

// One value in two spellings is one value: applying what another manager wrote is no
// conflict.
func TestSpellingsOfAQuantityAreNoConflict(t *testing.T) {
	h := start(t)
	vms := h.dynamic(t).Resource(vmResource).Namespace("default")
	manifest := strings.Replace(vmManifest, "memory: {guest: 128Mi}",
		`resources: {requests: {cpu: "2", memory: 1Gi}, limits: {cpu: 2500m, memory: "2147483648"}}`, 1)
	if _, err := vms.Apply(t.Context(), "testvm", parse(t, manifest), metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		t.Fatal(err)
	}
	respelled := strings.NewReplacer(`cpu: "2"`, "cpu: 2", "memory: 1Gi", "memory: 1024Mi", "cpu: 2500m", "cpu: 2.5", `"2147483648"`, "2147483648").Replace(manifest)
	if respelled == manifest {
		t.Fatal("nothing is respelled")
	}
	if _, err := vms.Apply(t.Context(), "testvm", parse(t, respelled), metav1.ApplyOptions{FieldManager: "two"}); err != nil {
		t.Errorf("the same values, spelled otherwise: %v", err)
	}
	other := strings.Replace(manifest, `cpu: "2"`, `cpu: "1"`, 1)
	if _, err := vms.Apply(t.Context(), "testvm", parse(t, other), metav1.ApplyOptions{FieldManager: "two"}); !apierrors.IsConflict(err) {
		t.Errorf("another value: %v, want a conflict", err)
	}
}
