package api_test

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

func TestServerSideApply(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	vms := h.dynamic(t).Resource(vmResource).Namespace("default")
	obj := parse(t, vmManifest)
	obj.SetNamespace("default")
	vm, err := vms.Apply(ctx, "testvm", obj, metav1.ApplyOptions{FieldManager: "one"})
	if err != nil {
		t.Fatal(err)
	}
	if field(t, vm, "spec", "template", "spec", "domain", "machine", "type") != "q35" {
		t.Error("an applied machine has no default machine type")
	}
	if vm, err = vms.Apply(ctx, "testvm", obj, metav1.ApplyOptions{FieldManager: "one"}); err != nil || vm.GetGeneration() != 1 {
		t.Errorf("applying the same again: %v, generation %d, want 1", err, vm.GetGeneration())
	}
	mine := parse(t, "apiVersion: kubevirt.io/v1\nkind: VirtualMachine\nmetadata: {name: testvm}\nspec: {runStrategy: Always}\n")
	if _, err := vms.Apply(ctx, "testvm", mine, metav1.ApplyOptions{FieldManager: "two"}); !apierrors.IsConflict(err) {
		t.Errorf("another manager's field is taken: %v", err)
	}
	vm, err = vms.Apply(ctx, "testvm", mine, metav1.ApplyOptions{FieldManager: "two", Force: true})
	if err != nil || field(t, vm, "spec", "runStrategy") != "Always" || vm.GetGeneration() != 2 {
		t.Errorf("forced: %v, run strategy %q, generation %d", err, field(t, vm, "spec", "runStrategy"), vm.GetGeneration())
	}
	status := parse(t, "apiVersion: kubevirt.io/v1\nkind: VirtualMachine\nmetadata: {name: testvm}\nstatus: {printableStatus: Running}\n")
	vm, err = vms.ApplyStatus(ctx, "testvm", status, metav1.ApplyOptions{FieldManager: "three"})
	if err != nil || field(t, vm, "status", "printableStatus") != "Running" || vm.GetGeneration() != 2 {
		t.Errorf("status: %v, %q, generation %d", err, field(t, vm, "status", "printableStatus"), vm.GetGeneration())
	}
}

func TestPatches(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	vms := h.dynamic(t).Resource(vmResource).Namespace("default")
	if _, err := vms.Create(ctx, parse(t, vmManifest), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		typ   types.PatchType
		patch string
	}{
		{types.JSONPatchType, `[{"op":"replace","path":"/spec/runStrategy","value":"Manual"}]`},
		{types.MergePatchType, `{"spec":{"runStrategy":"Manual"}}`},
		{types.StrategicMergePatchType, `{"spec":{"runStrategy":"Manual"}}`},
	} {
		vm, err := vms.Patch(ctx, "testvm", c.typ, []byte(c.patch), metav1.PatchOptions{})
		if err != nil || field(t, vm, "spec", "runStrategy") != "Manual" {
			t.Errorf("%s: %v", c.typ, err)
		}
		if _, err := vms.Patch(ctx, "testvm", types.MergePatchType, []byte(`{"spec":{"runStrategy":"Halted"}}`), metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	}
	_, err := vms.Patch(ctx, "testvm", types.MergePatchType, []byte(`{"spec":{"running":true}}`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.running") {
		t.Errorf("a bad patch gives %v, want an error at spec.running", err)
	}
	_, err = vms.Patch(ctx, "testvm", types.JSONPatchType, []byte(`[{"op":"test","path":"/spec/runStrategy","value":"Always"}]`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) {
		t.Errorf("a failed test of a patch gives %v", err)
	}
}

func TestStatusIsItsOwnResource(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	vms := h.dynamic(t).Resource(vmResource).Namespace("default")
	obj := parse(t, vmManifest)
	set(t, obj, "Running", "status", "printableStatus")
	vm, err := vms.Create(ctx, obj, metav1.CreateOptions{})
	if err != nil || field(t, vm, "status", "printableStatus") != "" {
		t.Fatalf("create: %v, status %q, want none", err, field(t, vm, "status", "printableStatus"))
	}
	set(t, vm, "Running", "status", "printableStatus")
	set(t, vm, "Always", "spec", "runStrategy")
	got, err := vms.UpdateStatus(ctx, vm, metav1.UpdateOptions{})
	if err != nil || field(t, got, "status", "printableStatus") != "Running" || field(t, got, "spec", "runStrategy") != "Halted" {
		t.Fatalf("update of status: %v, %v", err, got)
	}
	set(t, got, "Stopped", "status", "printableStatus")
	set(t, got, "Always", "spec", "runStrategy")
	got, err = vms.Update(ctx, got, metav1.UpdateOptions{})
	if err != nil || field(t, got, "status", "printableStatus") != "Running" || got.GetGeneration() != 2 {
		t.Fatalf("update: %v, %v", err, got)
	}
	// The status of an instance belongs to the mesh.
	vmis := h.dynamic(t).Resource(vmiResource).Namespace("default")
	vmi, err := vmis.Create(ctx, parse(t, vmiManifest), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	set(t, vmi, "Running", "status", "phase")
	vmi.SetAnnotations(map[string]string{"a": "b"})
	vmi, err = vmis.Update(ctx, vmi, metav1.UpdateOptions{})
	if err != nil || field(t, vmi, "status", "phase") != "Pending" || vmi.GetGeneration() != 1 {
		t.Errorf("update of an instance: %v, phase %q", err, field(t, vmi, "status", "phase"))
	}
}

func set(t testing.TB, u *unstructured.Unstructured, value string, path ...string) {
	t.Helper()
	if err := unstructured.SetNestedField(u.Object, value, path...); err != nil {
		t.Fatal(err)
	}
}

func TestDryRun(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	vms := h.dynamic(t).Resource(vmResource).Namespace("default")
	dry := []string{metav1.DryRunAll}
	if _, err := vms.Create(ctx, parse(t, vmManifest), metav1.CreateOptions{DryRun: dry}); err != nil {
		t.Fatal(err)
	}
	if _, err := vms.Get(ctx, "testvm", getOptions); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run created: %v", err)
	}
	vm, err := vms.Create(ctx, parse(t, vmManifest), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := vms.Delete(ctx, "testvm", metav1.DeleteOptions{DryRun: dry}); err != nil {
		t.Fatal(err)
	}
	got, err := vms.Get(ctx, "testvm", getOptions)
	if err != nil || got.GetResourceVersion() != vm.GetResourceVersion() {
		t.Errorf("a dry run deleted or changed: %v", err)
	}
}

func TestFieldValidation(t *testing.T) {
	h := start(t)
	vms := h.dynamic(t).Resource(vmResource).Namespace("default")
	obj := parse(t, vmManifest)
	set(t, obj, "x", "spec", "runStrategie")
	_, err := vms.Create(t.Context(), obj, metav1.CreateOptions{FieldValidation: "Strict"})
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "runStrategie") {
		t.Errorf("an unknown field gives %v, want an error that names it", err)
	}
	if _, err := vms.Create(t.Context(), obj, metav1.CreateOptions{FieldValidation: "Ignore"}); err != nil {
		t.Errorf("an unknown field that is to be ignored gives %v", err)
	}
}

func TestFinalizersAndOwners(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	maps := h.admin(t).CoreV1().ConfigMaps("default")
	owner, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner", Finalizers: []string{"example.com/keep"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	child := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "child", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: owner.UID}}}}
	if _, err := maps.Create(ctx, child, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	child.Name, child.OwnerReferences[0].UID = "orphan", ""
	if _, err := maps.Create(ctx, child, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an owner without uid gives %v", err)
	}
	if err := maps.Delete(ctx, "owner", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	owner, err = maps.Get(ctx, "owner", getOptions)
	if err != nil || owner.DeletionTimestamp == nil {
		t.Fatalf("with a finalizer: %v, deletion %v", err, owner.DeletionTimestamp)
	}
	owner.Finalizers = nil
	if _, err := maps.Update(ctx, owner, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Get(ctx, "owner", getOptions); !apierrors.IsNotFound(err) {
		t.Errorf("without its last finalizer: %v, want not found", err)
	}
}

func TestDeleteCollectionAndSelectors(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	secrets := h.admin(t).CoreV1().Secrets("default")
	for name, typ := range map[string]corev1.SecretType{"a": "", "b": "", "c": corev1.SecretTypeTLS} {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}}, Type: typ}
		if _, err := secrets.Create(ctx, s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := secrets.List(ctx, metav1.ListOptions{FieldSelector: "type=Opaque", LabelSelector: "name!=b"})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "a" {
		t.Errorf("selected %v, %v, want a", list.Items, err)
	}
	if _, err := secrets.List(ctx, metav1.ListOptions{FieldSelector: "nothing=x"}); !apierrors.IsBadRequest(err) {
		t.Errorf("an unknown field gives %v", err)
	}
	if err := secrets.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "type=Opaque"}); err != nil {
		t.Fatal(err)
	}
	if list, err = secrets.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 1 || list.Items[0].Name != "c" {
		t.Errorf("left %v, %v, want c", list.Items, err)
	}
}

func TestPaging(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	maps := h.admin(t).CoreV1().ConfigMaps("default")
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	opts := metav1.ListOptions{Limit: 2}
	for {
		list, err := maps.List(ctx, opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list.Items {
			names = append(names, m.Name)
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			break
		}
		// What comes after the first page is not in later ones.
		_ = maps.Delete(ctx, "e", metav1.DeleteOptions{})
	}
	if got := strings.Join(names, ""); got != "abcde" {
		t.Errorf("pages give %s, want abcde", got)
	}
}

func TestInvalidNames(t *testing.T) {
	h := start(t)
	obj := parse(t, vmManifest)
	obj.SetName("Bad_Name")
	_, err := h.dynamic(t).Resource(vmResource).Namespace("default").Create(t.Context(), obj, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "metadata.name") {
		t.Errorf("a bad name gives %v, want an error at metadata.name", err)
	}
}

func TestErrorsNameFields(t *testing.T) {
	h := start(t)
	obj := parse(t, vmManifest)
	unstructured.RemoveNestedField(obj.Object, "spec", "template", "spec", "networks")
	_, err := h.dynamic(t).Resource(vmResource).Namespace("default").Create(t.Context(), obj, metav1.CreateOptions{})
	status, ok := err.(apierrors.APIStatus)
	if !ok {
		t.Fatal(err)
	}
	causes, _ := json.Marshal(status.Status().Details.Causes)
	if !strings.Contains(string(causes), "spec.template.spec.domain.devices.interfaces[0].name") {
		t.Errorf("causes %s, want the field of the interface", causes)
	}
}
