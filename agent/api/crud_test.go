package api_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

var (
	vmResource  = kubevirtv1.GroupVersion.WithResource("virtualmachines")
	vmiResource = kubevirtv1.GroupVersion.WithResource("virtualmachineinstances")
)

const vmManifest = `
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: testvm
spec:
  runStrategy: Halted
  template:
    metadata:
      labels: {kubevirt.io/domain: testvm}
    spec:
      domain:
        devices:
          disks:
          - {name: root, disk: {bus: virtio}}
          interfaces:
          - {name: default, masquerade: {}}
        memory: {guest: 128Mi}
      networks:
      - {name: default, pod: {}}
      volumes:
      - {name: root, containerDisk: {image: registry/tiny:1}}
`

const vmiManifest = `
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata:
  name: testvmi
spec:
  domain:
    devices:
      disks:
      - {name: root, disk: {}}
    resources: {requests: {memory: 64Mi}}
  volumes:
  - {name: root, containerDisk: {image: registry/tiny}}
`

// parse reads a manifest.
func parse(t testing.TB, manifest string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(manifest), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

func field(t testing.TB, u *unstructured.Unstructured, path ...string) string {
	t.Helper()
	s, _, err := unstructured.NestedString(u.Object, path...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCreateReadUpdateDeleteWatch(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	for _, c := range []struct {
		resource schema.GroupVersionResource
		manifest string
	}{
		{vmResource, vmManifest},
		{vmiResource, vmiManifest},
		{corev1.SchemeGroupVersion.WithResource("secrets"), "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}\n"},
	} {
		client := h.dynamic(t).Resource(c.resource).Namespace("default")
		list, err := client.List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatalf("%s: list: %v", c.resource.Resource, err)
		}
		events, err := client.Watch(ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion()})
		if err != nil {
			t.Fatalf("%s: watch: %v", c.resource.Resource, err)
		}
		defer events.Stop()
		obj, err := client.Create(ctx, parse(t, c.manifest), metav1.CreateOptions{FieldValidation: "Strict"})
		if err != nil {
			t.Fatalf("%s: create: %v", c.resource.Resource, err)
		}
		want(t, events, watch.Added, obj.GetName())
		obj.SetLabels(map[string]string{"a": "b"})
		if obj, err = client.Update(ctx, obj, metav1.UpdateOptions{}); err != nil {
			t.Fatalf("%s: update: %v", c.resource.Resource, err)
		}
		want(t, events, watch.Modified, obj.GetName())
		got, err := client.Get(ctx, obj.GetName(), getOptions)
		if err != nil || got.GetLabels()["a"] != "b" {
			t.Fatalf("%s: get: %v, labels %v", c.resource.Resource, err, got.GetLabels())
		}
		// Take off the finalizers that controllers would.
		got.SetFinalizers(nil)
		if _, err := client.Update(ctx, got, metav1.UpdateOptions{}); err != nil {
			t.Fatalf("%s: update: %v", c.resource.Resource, err)
		}
		if err := client.Delete(ctx, obj.GetName(), metav1.DeleteOptions{}); err != nil {
			t.Fatalf("%s: delete: %v", c.resource.Resource, err)
		}
	}
}

// want reads an event.
func want(t testing.TB, w watch.Interface, typ watch.EventType, name string) *unstructured.Unstructured {
	t.Helper()
	e := nextEvent(t, w)
	u, ok := e.Object.(*unstructured.Unstructured)
	if !ok || e.Type != typ || name != "" && u.GetName() != name {
		t.Fatalf("event %s %v, want %s %s", e.Type, e.Object, typ, name)
	}
	return u
}

// A client cannot say that somebody else asked for an operation.
func TestOperationsNameTheUser(t *testing.T) {
	h := start(t)
	op := parse(t, `{apiVersion: mesh.virtmesh.io/v1alpha1, kind: Operation, metadata: {name: op}, spec: {type: RemoveHost, target: host9, requestedBy: somebody else}}`)
	client := h.dynamic(t).Resource(schema.GroupVersionResource{Group: "mesh.virtmesh.io", Version: "v1alpha1", Resource: "operations"})
	made, err := client.Create(t.Context(), op, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if by, _, _ := unstructured.NestedString(made.Object, "spec", "requestedBy"); by != "virtmesh:admin" {
		t.Errorf("requested by %q", by)
	}
}
