package api_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"virtmesh/agent/kinds/hcov1beta1"
	"virtmesh/agent/level"
	"virtmesh/raftstore"
)

var hyperConvergedResource = hcov1beta1.SchemeGroupVersion.WithResource("hyperconvergeds")

const hyperConvergedManifest = `{apiVersion: hco.kubevirt.io/v1beta1, kind: HyperConverged, metadata: {name: kubevirt-hyperconverged}, spec: {}}`

// startConfigured serves a mesh whose namespaces for the configuration are there, and returns a
// client of each.
func startConfigured(t *testing.T) (h *host, openshift, other dynamic.ResourceInterface) {
	t.Helper()
	h = start(t, func(cfg *raftstore.Config) { cfg.FeatureLevel = level.Known() })
	makeConfigNamespaces(t, h, hcov1beta1.Namespace, hcov1beta1.OtherNamespace)
	configs := h.dynamic(t).Resource(hyperConvergedResource)
	return h, configs.Namespace(hcov1beta1.Namespace), configs.Namespace(hcov1beta1.OtherNamespace)
}

// There is one object, which both namespaces show: whatever is done in one of them is seen in the
// other.
func TestHyperConvergedIsTheSameInBothNamespaces(t *testing.T) {
	h, openshift, other := startConfigured(t)
	const name = hcov1beta1.Name
	watched, err := other.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		t.Fatal(err)
	}
	defer watched.Stop()
	made, err := other.Create(t.Context(), parse(t, hyperConvergedManifest), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if made.GetNamespace() != hcov1beta1.OtherNamespace || made.GetGeneration() != 1 {
		t.Errorf("made in %s with generation %d", made.GetNamespace(), made.GetGeneration())
	}
	if _, err := openshift.Create(t.Context(), parse(t, hyperConvergedManifest), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("a second object: %v", err)
	}
	patched, err := openshift.Patch(t.Context(), name, types.MergePatchType, []byte(`{"spec":{"defaultCPUModel":"EPYC"}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	seen, err := other.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if seen.GetUID() != patched.GetUID() || seen.GetResourceVersion() != patched.GetResourceVersion() || field(t, seen, "spec", "defaultCPUModel") != "EPYC" {
		t.Errorf("the other namespace shows %v", seen.Object)
	}
	put := seen.DeepCopy()
	if err := unstructured.SetNestedField(put.Object, "None", "spec", "evictionStrategy"); err != nil {
		t.Fatal(err)
	}
	if put, err = other.Update(t.Context(), put, metav1.UpdateOptions{}); err != nil || put.GetNamespace() != hcov1beta1.OtherNamespace {
		t.Fatalf("updated to %v: %v", put, err)
	}
	if _, err := openshift.Update(t.Context(), patched, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update of what has changed elsewhere: %v", err)
	}
	applied := parse(t, strings.Replace(hyperConvergedManifest, "spec: {}", "spec: {defaultCPUModel: Haswell}", 1))
	if _, err := other.Apply(t.Context(), name, applied, metav1.ApplyOptions{FieldManager: "b", Force: true}); err != nil {
		t.Fatal(err)
	}
	status, err := json.Marshal(map[string]any{"status": map[string]any{"systemHealthStatus": "healthy"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := other.Patch(t.Context(), name, types.MergePatchType, status, metav1.PatchOptions{}, "status"); err != nil || got.GetNamespace() != hcov1beta1.OtherNamespace {
		t.Errorf("status: %v, %v", got, err)
	}
	stored, err := openshift.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := []string{field(t, stored, "spec", "defaultCPUModel"), field(t, stored, "spec", "evictionStrategy"), field(t, stored, "status", "systemHealthStatus")}; !slices.Equal(got, []string{"Haswell", "None", "healthy"}) {
		t.Errorf("stored is %q", got)
	}
	for namespace, want := range map[string][]string{
		hcov1beta1.Namespace: {hcov1beta1.Namespace}, hcov1beta1.OtherNamespace: {hcov1beta1.OtherNamespace}, "default": nil, "": {hcov1beta1.Namespace},
	} {
		list, err := h.dynamic(t).Resource(hyperConvergedResource).Namespace(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, item := range list.Items {
			got = append(got, item.GetNamespace())
		}
		if !slices.Equal(got, want) {
			t.Errorf("a list in %q has objects in %q", namespace, got)
		}
	}
	if err := other.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := openshift.Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("it is still there: %v", err)
	}
	checkMirroredEvents(t, watched)
}

// checkMirroredEvents reads events up to the deletion; each must be about the namespace of the
// watch.
func checkMirroredEvents(t *testing.T, watched watch.Interface) {
	t.Helper()
	for first := true; ; first = false {
		select {
		case e, open := <-watched.ResultChan():
			obj, ok := e.Object.(*unstructured.Unstructured)
			if !open || !ok || obj.GetNamespace() != hcov1beta1.OtherNamespace || first != (e.Type == watch.Added) {
				t.Fatalf("an event %s of %v", e.Type, e.Object)
			}
			if e.Type == watch.Deleted {
				return
			}
		case <-t.Context().Done():
			t.Fatal("no event tells of the deletion")
		}
	}
}

// The commands of the manual do what it says, and its error has its words.
func TestHyperConvergedTakesTheCommandsOfTheManual(t *testing.T) {
	h, openshift, _ := startConfigured(t)
	if _, err := openshift.Create(t.Context(), parse(t, hyperConvergedManifest), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	told, config := &warnings{}, h.adminConfig(t)
	config.WarningHandler = told
	configs := dynamic.NewForConfigOrDie(config).Resource(hyperConvergedResource).Namespace(hcov1beta1.Namespace)
	for _, gate := range []string{"deployTektonTaskResources", "VMPersistentState", "enableCommonBootImageImport", "deployVmConsoleProxy"} {
		patch := `[{"op":"replace","path":"/spec/featureGates/` + gate + `","value":true}]`
		if _, err := configs.Patch(t.Context(), hcov1beta1.Name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Errorf("gate %s: %v", gate, err)
		}
	}
	if !slices.ContainsFunc(told.texts, func(text string) bool { return strings.Contains(text, "spec.featureGates: the value is stored") }) {
		t.Errorf("nobody is told that gates do not act: %q", told.texts)
	}
	conflict := `{"spec":{"certConfig":{"ca":{"duration":"12h0m0s","renewBefore":"6h0m0s"}}}}`
	_, err := configs.Patch(t.Context(), hcov1beta1.Name, types.MergePatchType, []byte(conflict), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.certConfig: ca.duration is smaller than server.duration") {
		t.Errorf("certificates in conflict: %v", err)
	}
	for _, c := range []struct {
		value string
		want  int64
	}{{"9", 9}, {"null", 150}} {
		patch := `{"spec":{"liveMigrationConfig":{"progressTimeout":` + c.value + `}}}`
		got, err := configs.Patch(t.Context(), hcov1beta1.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if seconds, _, _ := unstructured.NestedInt64(got.Object, "spec", "liveMigrationConfig", "progressTimeout"); seconds != c.want {
			t.Errorf("%s became %d, want %d", c.value, seconds, c.want)
		}
	}
}
