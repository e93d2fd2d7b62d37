package kinds

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	machine "virtmesh/agent/vmi"
)

// minimal are the shortest manifests that each kind accepts.
func minimal() map[string]string {
	return map[string]string{
		"VirtualMachine":                    `{metadata: {name: a, namespace: ns}, spec: {runStrategy: Halted, template: {spec: {domain: {devices: {}, resources: {requests: {memory: 64Mi}}}}}}}`,
		"VirtualMachineInstance":            `{metadata: {name: a, namespace: ns}, spec: {domain: {devices: {}, resources: {requests: {memory: 64Mi}}}}}`,
		"VirtualMachineInstanceMigration":   `{metadata: {name: a, namespace: ns}, spec: {vmiName: b}}`,
		"DataVolume":                        `{metadata: {name: a, namespace: ns}, spec: {source: {blank: {}}, storage: {resources: {requests: {storage: 1Gi}}}}}`,
		"VirtualMachineInstancetype":        `{metadata: {name: a, namespace: ns}, spec: {cpu: {guest: 1}, memory: {guest: 64Mi}}}`,
		"VirtualMachineClusterInstancetype": `{metadata: {name: a}, spec: {cpu: {guest: 1}, memory: {guest: 64Mi}}}`,
		"VirtualMachinePreference":          `{metadata: {name: a, namespace: ns}, spec: {}}`,
		"VirtualMachineClusterPreference":   `{metadata: {name: a}, spec: {}}`,
		"NetworkAttachmentDefinition":       `{metadata: {name: a, namespace: ns}, spec: {config: '{"type":"bridge","bridge":"br1"}'}}`,
		"StorageClass":                      `{metadata: {name: a}, provisioner: p}`,
		"PersistentVolumeClaim":             `{metadata: {name: a, namespace: ns}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`,
		"Node":                              `{metadata: {name: a}}`,
		"MeshConfig":                        `{metadata: {name: mesh}}`,
		"HyperConverged":                    `{metadata: {name: kubevirt-hyperconverged, namespace: openshift-cnv}}`,
		"Operation":                         `{metadata: {name: a}, spec: {type: RemoveHost, target: host3}}`,
		"Namespace":                         `{metadata: {name: a}}`,
		"Secret":                            `{metadata: {name: a, namespace: ns}, stringData: {k: v}}`,
		"ConfigMap":                         `{metadata: {name: a, namespace: ns}, data: {k: v}}`,
		"ServiceAccount":                    `{metadata: {name: a, namespace: ns}, secrets: [{name: s}]}`,
		"Event":                             `{metadata: {name: a, namespace: ns}, involvedObject: {namespace: ns, name: b}}`,
		"Lease":                             `{metadata: {name: a, namespace: ns}, spec: {}}`,
		"Role":                              `{metadata: {name: "a:b", namespace: ns}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}`,
		"ClusterRole":                       `{metadata: {name: "a:b"}}`,
		"RoleBinding":                       `{metadata: {name: "a:b", namespace: ns}, roleRef: {kind: Role, name: "a:b"}, subjects: [{kind: User, name: u}, {kind: ServiceAccount, name: s}]}`,
		"ClusterRoleBinding":                `{metadata: {name: "a:b"}, roleRef: {kind: ClusterRole, name: "a:b"}, subjects: [{kind: Group, name: g}]}`,
		"ResourceQuota":                     `{metadata: {name: a, namespace: ns}, spec: {hard: {secrets: 3}}}`,
	}
}

// eachMinimal runs a test for every kind with a new object of its shortest manifest.
func eachMinimal(t *testing.T, test func(t *testing.T, k *Kind, made func() runtime.Object)) {
	t.Helper()
	manifests := minimal()
	for _, k := range All() {
		t.Run(k.GVK.Kind, func(t *testing.T) {
			manifest, ok := manifests[k.GVK.Kind]
			if !ok {
				t.Fatal("the kind has no manifest here")
			}
			test(t, k, func() runtime.Object { return object(t, k, manifest) })
		})
	}
}

func (k *Kind) defaultNew(obj runtime.Object) runtime.Object {
	if k.Default != nil {
		k.Default(machine.DefaultDefaults(), obj)
	}
	return obj
}

func text(t *testing.T, obj runtime.Object) string {
	t.Helper()
	data, err := yaml.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// What a kind fills in is accepted, and filled in once: not a second time, and not
// differently when the object is stored again.
func TestDefaultsAreValidAndSettle(t *testing.T) {
	eachMinimal(t, func(t *testing.T, k *Kind, made func() runtime.Object) {
		obj := k.defaultNew(made())
		if k.Validate != nil {
			if errs := k.Validate(machine.DefaultDefaults(), obj); len(errs) > 0 {
				t.Errorf("refused: %v", errs.ToAggregate())
			}
		}
		once := text(t, obj)
		if twice := text(t, k.defaultNew(obj)); twice != once {
			t.Errorf("defaults set twice give\n%s\nnot\n%s", twice, once)
		}
		same := obj.DeepCopyObject()
		if k.DefaultUpdate != nil {
			k.DefaultUpdate(machine.DefaultDefaults(), same, obj)
		}
		if got := text(t, same); got != once {
			t.Errorf("an update without a change gives\n%s\nnot\n%s", got, once)
		}
	})
}

// The manifest that made an object can replace it ('kubectl replace -f'): what it does
// not say is as it was or the default, and not forbidden.
func TestTheManifestReplacesWhatItMade(t *testing.T) {
	// As in KubeVirt, whose defaults count as a change of these two.
	fixed := []string{"VirtualMachineInstance", "VirtualMachineInstanceMigration"}
	eachMinimal(t, func(t *testing.T, k *Kind, made func() runtime.Object) {
		if slices.Contains(fixed, k.GVK.Kind) {
			return
		}
		stored := k.defaultNew(made())
		again := made()
		keepStatus(again, stored)
		if k.DefaultUpdate != nil {
			k.DefaultUpdate(machine.DefaultDefaults(), again, stored)
		}
		if k.ValidateUpdate == nil {
			return
		}
		if errs := k.ValidateUpdate(machine.DefaultDefaults(), again, stored); len(errs) > 0 {
			t.Errorf("refused: %v", errs.ToAggregate())
		}
	})
}

// keepStatus copies the status, as the API does: only its subresource writes it.
func keepStatus(to, from runtime.Object) {
	if status := reflect.ValueOf(to).Elem().FieldByName("Status"); status.IsValid() {
		status.Set(reflect.ValueOf(from).Elem().FieldByName("Status"))
	}
}

// Tables and selectors read every object: one without a status, and one without
// anything.
func TestCellsAndFieldsOfEveryObject(t *testing.T) {
	eachMinimal(t, func(t *testing.T, k *Kind, made func() runtime.Object) {
		for _, obj := range []runtime.Object{k.New(), made(), k.defaultNew(made())} {
			before := text(t, obj)
			for _, c := range k.Columns {
				c.Value(obj)
				if c.Name == "" || !slices.Contains([]string{"string", "integer", "boolean", "date"}, c.Type) {
					t.Errorf("column %q of type %q", c.Name, c.Type)
				}
			}
			if k.NameCell != nil {
				k.NameCell(obj)
			}
			for _, value := range k.Fields {
				value(obj)
			}
			if k.Warnings != nil {
				k.Warnings(obj)
			}
			if after := text(t, obj); after != before {
				t.Errorf("reading changed it to\n%s", after)
			}
		}
	})
}

// The API server's scheme knows every kind and its list, and which fields select.
func TestSchemeKnowsTheCatalogue(t *testing.T) {
	s := runtime.NewScheme()
	if err := AddToScheme(s, All()); err != nil {
		t.Fatal(err)
	}
	for _, k := range All() {
		for _, version := range []string{k.GVK.Version, runtime.APIVersionInternal} {
			gv := schema.GroupVersion{Group: k.GVK.Group, Version: version}
			obj, err := s.New(gv.WithKind(k.GVK.Kind))
			if err != nil || reflect.TypeOf(obj) != reflect.TypeOf(k.Object) {
				t.Errorf("%s: %T, %v", gv.WithKind(k.GVK.Kind), obj, err)
			}
			if list, err := s.New(gv.WithKind(k.GVK.Kind + "List")); err != nil || reflect.TypeOf(list) != reflect.TypeOf(k.List) {
				t.Errorf("list of %s: %T, %v", gv.WithKind(k.GVK.Kind), list, err)
			}
		}
		fields := map[string]bool{"metadata.name": true, "metadata.namespace": k.Namespaced, "spec.nonsense": false}
		for field := range k.Fields {
			fields[field] = true
		}
		for field, selects := range fields {
			_, _, err := s.ConvertFieldLabel(k.GVK, field, "x")
			if (err == nil) != selects {
				t.Errorf("%s by %s: %v", k.Resource, field, err)
			}
			if err != nil && (!strings.Contains(err.Error(), field) || !strings.Contains(err.Error(), k.Resource)) {
				t.Errorf("the error does not say what is wrong: %v", err)
			}
		}
	}
}

// A new namespace is held until it is empty; only its own end lets it go.
func TestNamespaceKeepsItsFinalizer(t *testing.T) {
	k := For[*corev1.Namespace]()
	old := k.defaultNew(object(t, k, `{metadata: {name: a}}`)).(*corev1.Namespace)
	if old.Labels[nameLabel] != "a" || old.Status.Phase != corev1.NamespaceActive || !IsHeld(old) {
		t.Errorf("a new namespace is %+v", old)
	}
	next := old.DeepCopy()
	next.Spec.Finalizers, next.Status.Phase, next.Labels = nil, corev1.NamespaceTerminating, nil
	k.DefaultUpdate(machine.DefaultDefaults(), next, old)
	if !IsHeld(next) || next.Status.Phase != corev1.NamespaceActive || next.Labels[nameLabel] != "a" {
		t.Errorf("a user's update made it %+v", next)
	}
}

// Whoever adds a finalizer removes it: each names a package.
func TestFinalizersHaveAnEnd(t *testing.T) {
	for _, k := range All() {
		for finalizer, remover := range k.Finalizers {
			if finalizer == "" || !strings.Contains(remover, "/") {
				t.Errorf("%s: finalizer %q is removed by %q", k.GVK.Kind, finalizer, remover)
			}
		}
	}
}
