package api

import (
	"reflect"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/util"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/kinds"
)

// known64 are the uint64 fields of served types. The field manager panics at them,
// so each that comes with an upgrade has to be seen to survive it.
var known64 = map[string]bool{"VirtualMachineInstanceStatus.RuntimeUser": true}

func TestUint64Fields(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		if seen[typ] {
			return
		}
		seen[typ] = true
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Array:
			walk(typ.Elem())
		case reflect.Map:
			walk(typ.Key())
			walk(typ.Elem())
		case reflect.Struct:
			for i := range typ.NumField() {
				f := typ.Field(i)
				if f.PkgPath != "" || f.Tag.Get("json") == "-" {
					continue
				}
				if f.Type.Kind() == reflect.Uint64 && !known64[typ.Name()+"."+f.Name] {
					t.Errorf("%s.%s is a uint64", typ, f.Name)
				}
				walk(f.Type)
			}
		}
	}
	for _, k := range kinds.All() {
		walk(reflect.TypeOf(k.Object).Elem())
	}
}

// testConverter returns the types and the converter of all kinds.
func testConverter(t *testing.T) (*types, managedfields.TypeConverter, *genericapiserver.Config) {
	t.Helper()
	all := kinds.All()
	ty, err := newTypes(all)
	if err != nil {
		t.Fatal(err)
	}
	c := genericapiserver.NewConfig(ty.codecs)
	setOpenAPI(c, ty.scheme)
	var names []string
	for _, k := range all {
		names = append(names, util.GetCanonicalTypeName(k.New()))
	}
	schemas, err := builder3.BuildOpenAPIDefinitionsForResources(c.OpenAPIV3Config, names...)
	if err != nil {
		t.Fatal(err)
	}
	converter, err := newConverter(ty.scheme, schemas)
	if err != nil {
		t.Fatal(err)
	}
	return ty, converter, c
}

// Every kind passes through the field manager, and so has a schema that names it.
func TestEveryKindIsManaged(t *testing.T) {
	ty, converter, _ := testConverter(t)
	for _, k := range kinds.All() {
		t.Run(k.GVK.Kind, func(t *testing.T) {
			hub := k.GVK
			hub.Version = runtime.APIVersionInternal
			fm, err := managedfields.NewDefaultFieldManager(converter, runtime.UnsafeObjectConvertor(ty.scheme),
				ty.scheme, ty.scheme, k.GVK, hub.GroupVersion(), "", nil)
			if err != nil {
				t.Fatal(err)
			}
			live, obj := k.New(), k.New()
			m, err := meta.Accessor(obj)
			if err != nil {
				t.Fatal(err)
			}
			m.SetName("x")
			m.SetLabels(map[string]string{"a": "b"})
			got, err := fm.Update(live, obj, "test")
			if err != nil {
				t.Fatal(err)
			}
			if m, _ := meta.Accessor(got); len(m.GetManagedFields()) != 1 {
				t.Errorf("managed fields %v, want those of one manager", m.GetManagedFields())
			}
		})
	}
}

// The status of an instance holds the uint64 that the field manager cannot read.
func TestUint64SurvivesFieldManager(t *testing.T) {
	_, converter, _ := testConverter(t)
	vmi := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Name: "x"}}
	vmi.Status.RuntimeUser = 107
	vmi.SetGroupVersionKind(kubevirtv1.VirtualMachineInstanceGroupVersionKind)
	typed, err := converter.ObjectToTyped(vmi)
	if err != nil {
		t.Fatal(err)
	}
	back, err := converter.TypedToObject(typed)
	if err != nil {
		t.Fatal(err)
	}
	status := back.(runtime.Unstructured).UnstructuredContent()["status"].(map[string]any)
	if status["runtimeUser"] != int64(107) {
		t.Errorf("runtimeUser %v, want 107", status["runtimeUser"])
	}
}

func TestKindsAreWellRegistered(t *testing.T) {
	all := kinds.All()
	if err := kinds.Check(all); err != nil {
		t.Fatal(err)
	}
	twice := slices.Concat(all, all[:1])
	if err := kinds.Check(twice); err == nil {
		t.Error("a kind registered twice is let through")
	}
}
