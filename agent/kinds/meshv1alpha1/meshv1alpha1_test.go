package meshv1alpha1

import (
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
)

func TestEffective(t *testing.T) {
	for name, c := range map[string]struct {
		config                 *MeshConfig
		ratio, percent, growth int64
		strategy               Strategy
	}{
		"no object":     {nil, 10, 100, 4, Balance},
		"empty object":  {&MeshConfig{}, 10, 100, 4, Balance},
		"part of it":    {&MeshConfig{Spec: MeshConfigSpec{Capacity: Capacity{MemoryOvercommitPercent: new(int64(150))}}}, 10, 150, 4, Balance},
		"all of it":     {&MeshConfig{Spec: MeshConfigSpec{Capacity: Capacity{CPUAllocationRatio: new(int64(1)), MemoryOvercommitPercent: new(int64(10)), Strategy: Pack}, VirtualMachine: VirtualMachine{new(int64(1))}}}, 1, 10, 1, Pack},
		"what is wrong": {&MeshConfig{Spec: MeshConfigSpec{Capacity: Capacity{CPUAllocationRatio: new(int64(0))}}}, 0, 100, 4, Balance},
	} {
		t.Run(name, func(t *testing.T) {
			got := Effective(c.config)
			if r := *got.Capacity.CPUAllocationRatio; r != c.ratio {
				t.Errorf("cpuAllocationRatio %d, want %d", r, c.ratio)
			}
			if p := *got.Capacity.MemoryOvercommitPercent; p != c.percent {
				t.Errorf("memoryOvercommitPercent %d, want %d", p, c.percent)
			}
			if g := *got.VirtualMachine.MaxHotplugRatio; g != c.growth {
				t.Errorf("maxHotplugRatio %d, want %d", g, c.growth)
			}
			if got.Capacity.Strategy != c.strategy {
				t.Errorf("strategy %q, want %q", got.Capacity.Strategy, c.strategy)
			}
		})
	}
}

// Objects of caches are shared: a change of a copy must not appear in them. A field that
// was added without "make generate" is found here.
func TestCopiesShareNothing(t *testing.T) {
	for _, object := range []runtime.Object{&MeshConfig{}, &MeshConfigList{}, &Operation{}, &OperationList{}} {
		fill(reflect.ValueOf(object).Elem())
		copied := object.DeepCopyObject()
		if !reflect.DeepEqual(object, copied) {
			t.Errorf("%T: the copy of %+v is %+v", object, object, copied)
		}
		if path := shared(reflect.ValueOf(object), reflect.ValueOf(copied)); path != "" {
			t.Errorf("%T: object and copy share %s", object, path)
		}
	}
	config := &MeshConfig{}
	fill(reflect.ValueOf(config).Elem())
	if path := shared(reflect.ValueOf(config.Spec), reflect.ValueOf(Effective(config))); path != "" {
		t.Errorf("Effective shares %s with its argument", path)
	}
	var none *MeshConfig
	if none.DeepCopy() != nil {
		t.Error("a copy of nothing is something")
	}
}

// fill sets every pointer, slice and map in v to something that is not empty.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	}
}

// shared returns the path of a pointer, slice or map that two values have in common. It is
// empty when they share nothing.
func shared(a, b reflect.Value) string {
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() {
			return ""
		}
		if a.Pointer() == b.Pointer() {
			return "(pointer)"
		}
		return shared(a.Elem(), b.Elem())
	case reflect.Slice:
		if a.Len() == 0 {
			return ""
		}
		if a.Pointer() == b.Pointer() {
			return "(slice)"
		}
		return shared(a.Index(0), b.Index(0))
	case reflect.Map:
		if !a.IsNil() && a.Pointer() == b.Pointer() {
			return "(map)"
		}
	case reflect.Struct:
		for i := range a.NumField() {
			if !a.Type().Field(i).IsExported() {
				continue
			}
			if path := shared(a.Field(i), b.Field(i)); path != "" {
				return a.Type().Field(i).Name + "." + path
			}
		}
	}
	return ""
}
