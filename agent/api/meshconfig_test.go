package api_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/level"
	"virtmesh/raftstore"
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

// Who limits the voters is told of names that are no host's, as a slip of the pen would leave
// the mesh with fewer voters than meant.
func TestMeshConfigNamesVoters(t *testing.T) {
	h := start(t, func(cfg *raftstore.Config) { cfg.FeatureLevel = level.Known() })
	told, config := &warnings{}, h.adminConfig(t)
	config.WarningHandler = told
	configs := dynamic.NewForConfigOrDie(config).Resource(meshConfigResource)
	manifest := strings.Replace(meshConfigManifest, "spec: {", "spec: {voters: {hosts: [host1, host2, host3]}, ", 1)
	nodes := h.dynamic(t).Resource(corev1.SchemeGroupVersion.WithResource("nodes"))
	for _, name := range []string{"host1", "host2"} {
		if _, err := nodes.Create(t.Context(), parse(t, "{apiVersion: v1, kind: Node, metadata: {name: "+name+"}}"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := configs.Create(t.Context(), parse(t, manifest), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(told.texts) != 1 || !strings.HasSuffix(told.texts[0], "(yet): host3") {
		t.Errorf("warned of %q", told.texts)
	}
	patch := []byte(`{"spec":{"voters":{"exclude":["host3"]}}}`)
	if _, err := configs.Patch(t.Context(), "mesh", types.MergePatchType, patch, metav1.PatchOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.voters.exclude[0]") {
		t.Errorf("a host that may and may not vote: %v", err)
	}
}

// Who leaves out so many hosts that one votes alone is told so.
func TestMeshConfigLeavesOutVoters(t *testing.T) {
	h := start(t, func(cfg *raftstore.Config) { cfg.FeatureLevel = level.Known() })
	told, config := &warnings{}, h.adminConfig(t)
	config.WarningHandler = told
	nodes := h.dynamic(t).Resource(corev1.SchemeGroupVersion.WithResource("nodes"))
	for _, name := range []string{"host1", "host2", "host3"} {
		if _, err := nodes.Create(t.Context(), parse(t, "{apiVersion: v1, kind: Node, metadata: {name: "+name+"}}"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	manifest := strings.Replace(meshConfigManifest, "spec: {", "spec: {voters: {exclude: [host3]}, ", 1)
	if _, err := dynamic.NewForConfigOrDie(config).Resource(meshConfigResource).Create(t.Context(), parse(t, manifest), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(told.texts) != 1 || !strings.Contains(told.texts[0], "lets 2 of 3 hosts vote, so one votes alone") {
		t.Errorf("warned of %q", told.texts)
	}
}
