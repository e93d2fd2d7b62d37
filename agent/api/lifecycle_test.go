package api_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	kubevirtv1 "kubevirt.io/api/core/v1"
	cdiv1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"

	"virtmesh/agent/kinds"
	"virtmesh/agent/kinds/hcov1beta1"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/level"
	"virtmesh/raftstore"
)

// minimal holds, for every kind, the least that makes an object of it.
var minimal = map[string]string{
	"VirtualMachine":                    `{spec: {runStrategy: Halted, template: {spec: {domain: {devices: {}, memory: {guest: 64Mi}}}}}}`,
	"VirtualMachineInstance":            `{spec: {domain: {devices: {}, memory: {guest: 64Mi}}}}`,
	"VirtualMachineInstanceMigration":   `{spec: {vmiName: x}}`,
	"VirtualMachineInstancetype":        `{spec: {cpu: {guest: 1}, memory: {guest: 64Mi}}}`,
	"VirtualMachineClusterInstancetype": `{spec: {cpu: {guest: 1}, memory: {guest: 64Mi}}}`,
	"VirtualMachinePreference":          `{spec: {}}`,
	"VirtualMachineClusterPreference":   `{spec: {}}`,
	"DataVolume":                        `{spec: {source: {blank: {}}, storage: {resources: {requests: {storage: 1Gi}}}}}`,
	"NetworkAttachmentDefinition":       `{}`,
	"StorageClass":                      `{provisioner: virtmesh.io/local}`,
	"PersistentVolumeClaim":             `{spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`,
	"Node":                              `{}`,
	"MeshConfig":                        `{}`,
	"HyperConverged":                    `{}`,
	"Namespace":                         `{}`,
	"Secret":                            `{}`,
	"ConfigMap":                         `{}`,
	"ServiceAccount":                    `{}`,
	"Event":                             `{involvedObject: {namespace: default}}`,
	"Lease":                             `{}`,
	"ResourceQuota":                     `{spec: {hard: {secrets: 3}}}`,
	"Operation":                         `{spec: {type: RemoveHost, target: host9}}`,
	"Role":                              `{}`,
	"ClusterRole":                       `{}`,
	"RoleBinding":                       `{roleRef: {kind: ClusterRole, name: "kubevirt.io:view"}}`,
	"ClusterRoleBinding":                `{roleRef: {kind: ClusterRole, name: "kubevirt.io:view"}}`,
}

// An object of every kind can be made from a minimal manifest and deleted: what
// keeps it is only a finalizer that the catalogue knows a remover of.
func TestEveryKindCanBeMadeAndDeleted(t *testing.T) {
	h := start(t, func(cfg *raftstore.Config) { cfg.FeatureLevel = level.Known() })
	makeConfigNamespaces(t, h, hcov1beta1.Namespace)
	for _, k := range kinds.All() {
		t.Run(k.GVK.Kind, func(t *testing.T) {
			manifest, ok := minimal[k.GVK.Kind]
			if !ok {
				t.Fatal("this test has no manifest of the kind")
			}
			obj := parse(t, manifest)
			obj.SetGroupVersionKind(k.GVK)
			obj.SetName(onlyName(k))
			var objs dynamic.ResourceInterface = h.dynamic(t).Resource(k.GVK.GroupVersion().WithResource(k.Resource))
			if k.Namespaced {
				objs = objs.(dynamic.NamespaceableResourceInterface).Namespace(onlyNamespace(k))
			}
			made, err := objs.Create(t.Context(), obj, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, finalizer := range finalizersOf(t, made) {
				if k.Finalizers[finalizer] == "" {
					t.Errorf("nobody removes the finalizer %s, which is set at the creation", finalizer)
				}
			}
			if err := objs.Delete(t.Context(), obj.GetName(), metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			if len(finalizersOf(t, made)) > 0 {
				marked, err := objs.Get(t.Context(), obj.GetName(), metav1.GetOptions{})
				if err != nil || marked.GetDeletionTimestamp() == nil {
					t.Fatalf("it is not marked as being deleted (%v)", err)
				}
				removeFinalizers(t, objs, marked)
			}
			if _, err := objs.Get(t.Context(), obj.GetName(), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("it is still there: %v", err)
			}
		})
	}
	if extra := len(minimal) - len(kinds.All()); extra > 0 {
		t.Errorf("manifests of %d kinds that are not served among %v", extra, slices.Sorted(maps.Keys(minimal)))
	}
}

// onlyName and onlyNamespace are where objects can be of which a mesh has one; a kind of which it can
// have more takes any.
func onlyName(k *kinds.Kind) string {
	if k.GVK.Kind == "HyperConverged" {
		return hcov1beta1.Name
	}
	return meshv1alpha1.Name
}

func onlyNamespace(k *kinds.Kind) string {
	if k.GVK.Kind == "HyperConverged" {
		return hcov1beta1.Namespace
	}
	return metav1.NamespaceDefault
}

// makeConfigNamespaces makes the namespaces that a steward makes in a mesh.
func makeConfigNamespaces(t *testing.T, h *host, names ...string) {
	t.Helper()
	for _, name := range names {
		ns := parse(t, `{apiVersion: v1, kind: Namespace}`)
		ns.SetName(name)
		if _, err := h.dynamic(t).Resource(corev1.SchemeGroupVersion.WithResource("namespaces")).Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// finalizersOf returns those of the metadata and those of a namespace's spec.
func finalizersOf(t *testing.T, obj *unstructured.Unstructured) []string {
	t.Helper()
	inSpec, _, err := unstructured.NestedStringSlice(obj.Object, "spec", "finalizers")
	if err != nil {
		t.Fatal(err)
	}
	return append(obj.GetFinalizers(), inSpec...)
}

// removeFinalizers does what the loops do that the catalogue names.
func removeFinalizers(t *testing.T, objs dynamic.ResourceInterface, obj *unstructured.Unstructured) {
	t.Helper()
	obj.SetFinalizers(nil)
	var at []string
	if obj.GetKind() == "Namespace" {
		unstructured.RemoveNestedField(obj.Object, "spec", "finalizers")
		at = []string{"finalize"}
	}
	if _, err := objs.Update(t.Context(), obj, metav1.UpdateOptions{}, at...); err != nil {
		t.Fatal(err)
	}
}

// warnings keeps the warnings that the server sends.
type warnings struct{ texts []string }

func (w *warnings) HandleWarningHeader(_ int, _, text string) { w.texts = append(w.texts, text) }

// Nobody is left to wait for what this version does not do.
func TestWhatIsOnlyStoredSaysSo(t *testing.T) {
	h := start(t)
	for _, c := range []struct {
		resource       schema.GroupVersionResource
		manifest, tell string
		check          func(obj *unstructured.Unstructured) bool
	}{
		{cdiv1.SchemeGroupVersion.WithResource("datavolumes"), `{apiVersion: cdi.kubevirt.io/v1beta1, kind: DataVolume, metadata: {name: a},
			spec: {source: {blank: {}}, storage: {resources: {requests: {storage: 1Gi}}}}}`, "nothing fills DataVolumes",
			func(obj *unstructured.Unstructured) bool {
				conditions, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
				return field(t, obj, "status", "phase") == "Pending" && len(conditions) == 1 && conditions[0].(map[string]any)["reason"] == "NotSupported"
			}},
		{kubevirtv1.GroupVersion.WithResource("virtualmachineinstancemigrations"), `{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstanceMigration,
			metadata: {name: a}, spec: {vmiName: x}}`, "does not migrate",
			func(obj *unstructured.Unstructured) bool {
				return field(t, obj, "status", "phase") == "Failed" && field(t, obj, "status", "migrationState", "failureReason") != ""
			}},
	} {
		told, config := &warnings{}, h.adminConfig(t)
		config.WarningHandler = told
		client, err := dynamic.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		obj, err := client.Resource(c.resource).Namespace("default").Create(t.Context(), parse(t, c.manifest), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(told.texts) != 1 || !strings.Contains(told.texts[0], c.tell) {
			t.Errorf("%s: warned of %q", c.resource.Resource, told.texts)
		}
		if !c.check(obj) {
			t.Errorf("%s: %v", c.resource.Resource, obj.Object["status"])
		}
	}
}
