package api_test

import (
	"encoding/json"
	"reflect"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/raftstore"
)

const newerKey = "/registry/kubevirt.io/virtualmachines/default/testvm"

// newerMachine is a stored machine, as the store has it.
type newerMachine struct {
	t *testing.T
	h *host
}

func (m newerMachine) record() raftstore.Record {
	m.t.Helper()
	rec, _, err := m.h.store.Get(m.t.Context(), newerKey, raftstore.ReadOptions{})
	if err != nil {
		m.t.Fatal(err)
	}
	return rec
}

func (m newerMachine) read() map[string]any {
	m.t.Helper()
	var v map[string]any
	if err := json.Unmarshal(m.record().Value, &v); err != nil {
		m.t.Fatal(err)
	}
	return v
}

// at returns the value at a path, in which numbers are places in lists; nil if there is
// none.
func at(v any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			object, _ := v.(map[string]any)
			v = object[step]
		case int:
			list, _ := v.([]any)
			if step >= len(list) {
				return nil
			}
			v = list[step]
		}
	}
	return v
}

// newerFields are fields that only a newer version knows, in the objects at these paths.
var newerFields = [][]any{
	{},
	{"metadata"},
	{"spec"},
	{"spec", "template", "spec"},
	{"spec", "template", "spec", "domain", "devices", "disks", 0},
	{"spec", "template", "spec", "domain", "devices", "disks", 0, "disk"},
	{"spec", "template", "spec", "volumes", 0},
	{"status"},
	{"status", "conditions", 0},
}

// storeNewerMachine creates a machine, and stores it as a host of a newer version would
// that has set fields which this version does not know.
func storeNewerMachine(t *testing.T, h *host) newerMachine {
	t.Helper()
	m := newerMachine{t, h}
	vms := h.dynamic(t).Resource(vmResource).Namespace("default")
	obj := parse(t, newerManifest)
	if _, err := vms.Create(t.Context(), obj, metav1.CreateOptions{FieldManager: "one"}); err != nil {
		t.Fatal(err)
	}
	v := m.read()
	v["status"] = map[string]any{"printableStatus": "Stopped", "conditions": []any{map[string]any{"type": "Ready", "status": "False"}}}
	for _, path := range newerFields {
		at(v, path...).(map[string]any)["newer"] = map[string]any{"count": 1.0}
	}
	value, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: newerKey, Value: value}}}); err != nil {
		t.Fatal(err)
	}
	return m
}

// checkKept fails unless the fields of the newer version are still stored.
func (m newerMachine) checkKept() {
	m.t.Helper()
	stored := m.read()
	for _, path := range newerFields {
		if got := at(stored, append(append([]any{}, path...), "newer")...); !reflect.DeepEqual(got, map[string]any{"count": 1.0}) {
			m.t.Errorf("the field that is unknown at %v became %v", path, got)
		}
	}
}

const newerManifest = `
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: testvm, namespace: default}
spec:
  runStrategy: Halted
  template:
    spec:
      domain:
        resources: {requests: {memory: 128Mi}}
        devices: {disks: [{name: root, disk: {bus: virtio}}, {name: data, disk: {bus: virtio}}]}
      volumes:
      - {name: root, containerDisk: {image: example.org/root}}
      - {name: data, containerDisk: {image: example.org/data}}
`

// TestOlderHostKeepsWhatItDoesNotKnow: however a client writes an object through a host
// that is older than the one that wrote it, what the host does not know stays.
func TestOlderHostKeepsWhatItDoesNotKnow(t *testing.T) {
	h := start(t)
	m := storeNewerMachine(t, h)
	ctx := t.Context()
	vms := h.dynamic(t).Resource(vmResource).Namespace("default")
	patch := func(typ types.PatchType, text string) func() error {
		return func() error {
			opts := metav1.PatchOptions{FieldManager: "two"}
			if typ == types.ApplyPatchType {
				opts.Force = new(true)
			}
			_, err := vms.Patch(ctx, "testvm", typ, []byte(text), opts)
			return err
		}
	}
	put := func(change func(*unstructured.Unstructured)) func() error {
		return func() error {
			vm, err := vms.Get(ctx, "testvm", getOptions)
			if err != nil {
				return err
			}
			if at(vm.Object, "spec", "newer") != nil {
				t.Error("a field that this version does not know is served")
			}
			change(vm)
			_, err = vms.Update(ctx, vm, metav1.UpdateOptions{})
			return err
		}
	}
	for _, c := range []struct {
		name  string
		write func() error
		path  []any
		want  any
	}{
		{"merge patch", patch(types.MergePatchType, `{"spec":{"runStrategy":"Manual"}}`), []any{"spec", "runStrategy"}, "Manual"},
		{"strategic patch", patch(types.StrategicMergePatchType, `{"metadata":{"labels":{"a":"b"}}}`), []any{"metadata", "labels", "a"}, "b"},
		{"JSON patch", patch(types.JSONPatchType, `[{"op":"replace","path":"/spec/template/spec/domain/devices/disks/0/disk/bus","value":"sata"}]`),
			[]any{"spec", "template", "spec", "domain", "devices", "disks", 0, "disk", "bus"}, "sata"},
		{"apply", patch(types.ApplyPatchType, `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","spec":{"runStrategy":"Halted"}}`), []any{"spec", "runStrategy"}, "Halted"},
		{"replace", put(func(vm *unstructured.Unstructured) { vm.SetAnnotations(map[string]string{"c": "d"}) }), []any{"metadata", "annotations", "c"}, "d"},
		{"removal of another element", patch(types.JSONPatchType, `[{"op":"remove","path":"/spec/template/spec/domain/devices/disks/1"},{"op":"remove","path":"/spec/template/spec/volumes/1"}]`),
			[]any{"spec", "template", "spec", "domain", "devices", "disks", 1}, nil},
		{"removal of a field", patch(types.MergePatchType, `{"metadata":{"labels":null}}`), []any{"metadata", "labels"}, nil},
		{"status", func() error {
			vm, err := vms.Get(ctx, "testvm", getOptions)
			if err != nil {
				return err
			}
			set(t, vm, "Starting", "status", "printableStatus")
			_, err = vms.UpdateStatus(ctx, vm, metav1.UpdateOptions{})
			return err
		}, []any{"status", "printableStatus"}, "Starting"},
		{"start", func() error {
			return h.admin(t).CoreV1().RESTClient().Put().
				AbsPath("/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachines/testvm/start").Do(ctx).Error()
		}, []any{"spec", "runStrategy"}, "Always"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.write(); err != nil {
				t.Fatal(err)
			}
			if got := at(m.read(), c.path...); got != c.want {
				t.Errorf("%v is %v, want %v", c.path, got, c.want)
			}
			newerMachine{t, h}.checkKept()
		})
	}
}

// TestNoChangeOverUnknownFields: a write without a change writes nothing, also where the
// stored object is not what this version would store.
func TestNoChangeOverUnknownFields(t *testing.T) {
	h := start(t)
	m := storeNewerMachine(t, h)
	before := m.record().ModRevision
	vms := h.dynamic(t).Resource(vmResource).Namespace("default")
	for range 2 {
		if _, err := vms.Patch(t.Context(), "testvm", types.MergePatchType, []byte(`{"spec":{"runStrategy":"Halted"}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	vm, err := vms.Get(t.Context(), "testvm", getOptions)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vms.Update(t.Context(), vm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if after := m.record().ModRevision; after != before {
		t.Errorf("writes without a change moved the machine from revision %d to %d", before, after)
	}
}

// TestClientNamesAnUnknownField: what a client says of a field that the host does not know
// is refused or ignored, as the client wishes. It never changes what a newer host stored.
func TestClientNamesAnUnknownField(t *testing.T) {
	h := start(t)
	m := storeNewerMachine(t, h)
	vms := h.dynamic(t).Resource(vmResource).Namespace("default")
	vm, err := vms.Get(t.Context(), "testvm", getOptions)
	if err != nil {
		t.Fatal(err)
	}
	set(t, vm, "mine", "spec", "newer")
	vm.SetLabels(map[string]string{"a": "b"})
	if _, err := vms.Update(t.Context(), vm, metav1.UpdateOptions{FieldValidation: "Strict"}); err == nil {
		t.Error("strict validation accepts a field that this version does not know")
	}
	if at(m.read(), "metadata", "labels", "a") != nil {
		t.Error("a refused update was half applied")
	}
	if _, err := vms.Update(t.Context(), vm, metav1.UpdateOptions{FieldValidation: "Warn"}); err != nil {
		t.Fatal(err)
	}
	if at(m.read(), "metadata", "labels", "a") != "b" {
		t.Error("the rest of the update is not stored")
	}
	m.checkKept()
}
