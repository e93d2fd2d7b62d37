package api_test

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/kinds/meshv1alpha1"
)

var meshConfigResource = meshv1alpha1.SchemeGroupVersion.WithResource("meshconfigs")

const meshConfigManifest = `
apiVersion: mesh.virtmesh.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {capacity: {memoryOvercommitPercent: 150}}
`

func TestMeshConfigIsServed(t *testing.T) {
	h := start(t)
	configs := h.dynamic(t).Resource(meshConfigResource)
	made, err := configs.Create(t.Context(), parse(t, meshConfigManifest), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ratio, _, _ := unstructured.NestedInt64(made.Object, "spec", "capacity", "cpuAllocationRatio")
	if ratio != 10 || made.GetGeneration() != 1 {
		t.Errorf("ratio %d, generation %d, want the default 10 and generation 1", ratio, made.GetGeneration())
	}
	other := parse(t, strings.Replace(meshConfigManifest, "name: mesh", "name: other", 1))
	if _, err := configs.Create(t.Context(), other, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `must be "mesh"`) {
		t.Errorf("a second object: %v, want a refusal that names the first", err)
	}
	patch := []byte(`{"apiVersion":"mesh.virtmesh.io/v1alpha1","kind":"MeshConfig","spec":{"capacity":{"strategy":"pack"}}}`)
	applied, err := configs.Patch(t.Context(), "mesh", types.ApplyPatchType, patch, metav1.PatchOptions{FieldManager: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if s := field(t, applied, "spec", "capacity", "strategy"); s != "pack" || applied.GetGeneration() != 2 {
		t.Errorf("strategy %s, generation %d, want pack and 2", s, applied.GetGeneration())
	}
}
