package objects_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// fill sets every field of v, lists with two elements. Types that encode themselves get
// the value that leaf has for them, or none.
func fill(v reflect.Value, depth int) {
	if value, ok := leaves[v.Type()]; ok {
		v.Set(reflect.ValueOf(value))
		return
	}
	if v.Type().Implements(marshaler) || depth == 0 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth-1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), depth-1)
		fill(v.Index(1), depth-1)
	case reflect.Map:
		value := reflect.New(v.Type().Elem()).Elem()
		fill(value, depth-1)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("key").Convert(v.Type().Key()), value)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), depth-1)
			}
		}
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	default:
		if v.CanInt() {
			v.SetInt(7)
		} else if v.CanUint() {
			v.SetUint(7)
		}
	}
}

var marshaler = reflect.TypeFor[json.Marshaler]()

var leaves = map[reflect.Type]any{
	reflect.TypeFor[metav1.Time]():          metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)),
	reflect.TypeFor[metav1.MicroTime]():     metav1.NewMicroTime(time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)),
	reflect.TypeFor[metav1.Duration]():      metav1.Duration{Duration: time.Minute},
	reflect.TypeFor[resource.Quantity]():    resource.MustParse("128Mi"),
	reflect.TypeFor[intstr.IntOrString]():   intstr.FromString("http"),
	reflect.TypeFor[runtime.RawExtension](): runtime.RawExtension{Raw: []byte(`{"a":1}`)},
	reflect.TypeFor[metav1.FieldsV1]():      *metav1.NewFieldsV1(`{"f:spec":{}}`),
}

// addUnknown adds a field that no version of today has to every object in a JSON value of
// a type, and returns how many. Every key of a map is known, and so is all in a type that
// encodes itself.
func addUnknown(typ reflect.Type, value any) (n int) {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if typ.Implements(marshaler) || reflect.PointerTo(typ).Implements(marshaler) {
		return 0
	}
	switch v := value.(type) {
	case []any:
		for _, element := range v {
			n += addUnknown(typ.Elem(), element)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if typ.Kind() == reflect.Map {
				n += addUnknown(typ.Elem(), v[name])
			} else if f, ok := fieldNamed(typ, name); ok {
				n += addUnknown(f, v[name])
			}
		}
		if typ.Kind() == reflect.Struct {
			v["fromTheFuture"] = map[string]any{"text": "new", "count": json.Number("18446744073709551615")}
			n++
		}
	}
	return n
}

func fieldNamed(typ reflect.Type, name string) (reflect.Type, bool) {
	for _, f := range reflect.VisibleFields(typ) {
		if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag == name {
			return f.Type, true
		}
	}
	return nil, false
}

func parse(t testing.TB, text []byte) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// storeNewer stores o as a version from the future would, which knows a field more in
// every object, and returns what it stored.
func storeNewer(t testing.TB, s objects.Store, o kinds.Object) (storeKey string, newer map[string]any) {
	t.Helper()
	value, err := objects.Encode(o)
	if err != nil {
		t.Fatal(err)
	}
	newer = parse(t, value)
	if n := addUnknown(reflect.TypeOf(o), newer); n < 2 {
		t.Fatalf("only %d objects in %s", n, value)
	}
	if value, err = json.Marshal(newer); err != nil {
		t.Fatal(err)
	}
	kind, err := objects.KindOf(o)
	if err != nil {
		t.Fatal(err)
	}
	storeKey = kind.StoreKey(kinds.KeyOf(o))
	var tx objects.Tx
	tx.Require(storeKey, 0)
	tx.Put(storeKey, value)
	if _, err := tx.Commit(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return storeKey, newer
}

func record(t testing.TB, s objects.Store, storeKey string) raftstore.Record {
	t.Helper()
	rec, _, err := s.Get(t.Context(), storeKey, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func setIn(v map[string]any, value any, path ...string) {
	for _, name := range path[:len(path)-1] {
		v = v[name].(map[string]any)
	}
	v[path[len(path)-1]] = value
}

// A host that is older than the writer of an object changes what it knows, at any place in
// an object of any kind, and nothing else.
func TestEveryKindKeepsWhatIsUnknown(t *testing.T) {
	for _, kind := range kinds.All() {
		t.Run(kind.GVK.Kind, func(t *testing.T) {
			s := objectstest.New()
			o := kind.New()
			fill(reflect.ValueOf(o).Elem(), 14)
			o.SetDeletionTimestamp(nil)
			if !kind.Namespaced {
				o.SetNamespace("")
			}
			storeKey, want := storeNewer(t, s, o)

			old := kind.New()
			if err := objects.CodecOf(kind).Decode(record(t, s, storeKey).Value, old); err != nil {
				t.Fatal(err)
			}
			old.SetResourceVersion(fmt.Sprint(record(t, s, storeKey).ModRevision))
			next := old.DeepCopyObject().(kinds.Object)
			next.SetLabels(map[string]string{"changed": "yes"})
			commit(t, s, func(tx *objects.Tx) { tx.Update(old, next) })
			setIn(want, map[string]any{"changed": "yes"}, "metadata", "labels")
			if got := parse(t, record(t, s, storeKey).Value); !reflect.DeepEqual(got, want) {
				t.Fatalf("a new label made of it\n%v, want\n%v", got, want)
			}

			// The next write needs no other read: the object knows its new revision.
			before := s.Commits()
			commit(t, s, func(tx *objects.Tx) { tx.Update(next, next.DeepCopyObject().(kinds.Object)) })
			if s.Commits() != before {
				t.Error("a write without a change was committed")
			}
			raw := raw(t, s, storeKey)
			raw.SetFinalizers([]string{"x/y"})
			commit(t, s, func(tx *objects.Tx) { tx.UpdateRaw(raw) })
			setIn(want, []any{"x/y"}, "metadata", "finalizers")
			if got := parse(t, record(t, s, storeKey).Value); !reflect.DeepEqual(got, want) {
				t.Errorf("another list of finalizers made of it\n%v, want\n%v", got, want)
			}
		})
	}
}

// TestStatusWriteKeepsWhatIsUnknown: what controllers do all the time.
func TestStatusWriteKeepsWhatIsUnknown(t *testing.T) {
	eachStore(t, func(t *testing.T, s objects.Store) {
		vmi := newVMI("a")
		vmi.Spec.Domain.Devices.Disks = []kubevirtv1.Disk{{Name: "root"}, {Name: "data"}}
		vmi.Status.Conditions = []kubevirtv1.VirtualMachineInstanceCondition{{Type: "Ready", Status: "False"}, {Type: "Paused", Status: "True"}}
		vmi.Status.Interfaces = []kubevirtv1.VirtualMachineInstanceNetworkInterface{{IP: "10.0.0.1"}, {IP: "10.0.0.2"}}
		vmi.Status.Reason = "old"
		storeKey, want := storeNewer(t, s, vmi)

		old := get(t, s, "a")
		next := old.DeepCopy()
		next.Status.Phase, next.Status.Reason = kubevirtv1.Running, ""
		next.Status.Conditions = []kubevirtv1.VirtualMachineInstanceCondition{{Type: "AgentConnected", Status: "True"}, {Type: "Ready", Status: "True"}}
		next.Status.Interfaces = append(next.Status.Interfaces, kubevirtv1.VirtualMachineInstanceNetworkInterface{IP: "10.0.0.3"})
		next.Spec.Hostname = "not part of the status"
		commit(t, s, func(tx *objects.Tx) { tx.UpdateStatus(old, next) })

		status := want["status"].(map[string]any)
		delete(status, "reason")
		status["phase"] = "Running"
		ready := status["conditions"].([]any)[0].(map[string]any)
		ready["status"] = "True"
		connected := maps.Clone(ready)
		connected["type"] = "AgentConnected"
		delete(connected, "fromTheFuture")
		status["conditions"] = []any{connected, ready}
		status["interfaces"] = append(status["interfaces"].([]any), map[string]any{"ipAddress": "10.0.0.3"})
		if got := parse(t, record(t, s, storeKey).Value); !reflect.DeepEqual(got, want) {
			t.Errorf("the status write made of it\n%v, want\n%v", got, want)
		}
		var late objects.Tx
		late.UpdateStatus(old, next)
		if _, err := late.Commit(t.Context(), s); !objects.LostRace(err) {
			t.Errorf("a write over a newer version: %v, want a lost race", err)
		}
	})
}

// Two writes of one transaction, and writes to a store that seals its values.
func TestTransactionKeepsWhatIsUnknown(t *testing.T) {
	type claim struct {
		Host  string `json:"host"`
		Epoch int    `json:"epoch,omitempty"`
	}
	s := objects.FromRaft(raftstoretest.New(t), &objectstest.Sealer{})
	commit(t, s, func(tx *objects.Tx) { tx.Put("/claims/a", []byte(`{"host":"h1","epoch":1,"fromTheFuture":[1]}`)) })
	read := record(t, s, "/claims/a")
	var tx objects.Tx
	tx.Require("/claims/a", read.ModRevision)
	objects.PutValue(&tx, "/claims/a", claim{Host: "h2"})
	objects.PutValue(&tx, "/claims/a", claim{Host: "h2"}) // repeated without effect
	objects.PutValue(&tx, "/claims/b", claim{Host: "h2"})
	for range 2 { // a transaction that is committed again says the same
		_, err := tx.Commit(t.Context(), s)
		if got := string(record(t, s, "/claims/a").Value); got != `{"fromTheFuture":[1],"host":"h2"}` {
			t.Errorf("the claim became %s (%v)", got, err)
		}
		if got := string(record(t, s, "/claims/b").Value); got != `{"host":"h2"}` {
			t.Errorf("the other claim became %s (%v)", got, err)
		}
	}
	// A record that must not exist yet replaces none, whatever the replica has.
	var create objects.Tx
	create.Require("/claims/a", 0)
	objects.PutValue(&create, "/claims/a", claim{})
	if _, err := create.Commit(t.Context(), s); !objects.LostRace(err) {
		t.Errorf("a second creation: %v, want a lost race", err)
	}
	// What cannot be read is not overwritten.
	commit(t, s, func(tx *objects.Tx) { tx.Put("/claims/a", []byte(`{"host":1}`)) })
	var blind objects.Tx
	objects.PutValue(&blind, "/claims/a", claim{})
	if _, err := blind.Commit(t.Context(), s); err == nil || !strings.Contains(err.Error(), "/claims/a") {
		t.Errorf("a write over a record that cannot be read: %v, want an error that names it", err)
	}
}

// An event that a newer version of this host began is counted on.
func TestRecorderKeepsWhatIsUnknown(t *testing.T) {
	s := objectstest.New()
	cfg := objects.DefaultRecorderConfig()
	cfg.Store, cfg.Component, cfg.Host, cfg.Logger = s, "test", "h1", slog.New(slog.DiscardHandler)
	vmi := newVMI("a")
	vmi.UID = "uid"
	report := func() {
		r, err := objects.NewRecorder(cfg) // as after a restart
		if err != nil {
			t.Fatal(err)
		}
		commit(t, s, func(tx *objects.Tx) { r.AddTo(tx, vmi, corev1.EventTypeNormal, "Started", "it runs") })
	}
	report()
	prefix := objects.KindFor[*corev1.Event]().Prefix()
	rec := record(t, s, s.Keys(prefix)[0])
	newer := parse(t, rec.Value)
	newer["fromTheFuture"] = "kept"
	value, err := json.Marshal(newer)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, func(tx *objects.Tx) { tx.Put(rec.Key, value) })
	report()
	got := parse(t, record(t, s, rec.Key).Value)
	if keys := s.Keys(prefix); len(keys) != 1 || got["fromTheFuture"] != "kept" || got["count"] != json.Number("2") {
		t.Errorf("%d events, and the first became %v", len(keys), got)
	}
}
