package kinds

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

func TestCatalogueIsSound(t *testing.T) {
	if err := Check(All()); err != nil {
		t.Fatal(err)
	}
	if err := Check(append(All(), All()[0])); err == nil {
		t.Error("a kind registered twice is let through")
	}
	for name, spoil := range map[string]func(*Kind){
		"no version":         func(k *Kind) { k.GVK.Version = "" },
		"resource":           func(k *Kind) { k.Resource = "Things" },
		"no singular":        func(k *Kind) { k.Singular = "" },
		"no list":            func(k *Kind) { k.List = nil },
		"no support":         func(k *Kind) { k.Support = "" },
		"nobody writes spec": func(k *Kind) { k.Writers.Spec = "" },
		"status of nobody":   func(k *Kind) { k.Writers.Status = "" },
	} {
		k := *kind(t, "VirtualMachine")
		spoil(&k)
		if err := Check([]*Kind{&k}); err == nil {
			t.Errorf("%s: let through", name)
		}
	}
}

// Keys and kinds are found again, by each of the ways to look for them.
func TestEveryKindIsFound(t *testing.T) {
	for _, k := range All() {
		key, inNamespace := Key{Name: "n"}, k.Prefix()
		if k.Namespaced {
			key.Namespace, inNamespace = "ns", k.Prefix()+"ns/"
		}
		storeKey := k.StoreKey(key)
		if back, parsed, ok := ParseStoreKey(storeKey); !ok || back != k || parsed != key {
			t.Errorf("%s: parsed as %v %v %v", storeKey, back, parsed, ok)
		}
		if l, ok := ParseLocation(storeKey); !ok || l.Resource != k.GroupResource() || l.Key != key {
			t.Errorf("%s: located at %v %v", storeKey, l, ok)
		}
		if got := k.NamespacePrefix("ns"); got != inNamespace {
			t.Errorf("%s: prefix %s in a namespace, want %s", k.Resource, got, inNamespace)
		}
		byResource, _ := ByResource(k.GroupResource())
		byKind, _ := ByGroupKind(k.GVK.GroupKind())
		byType, err := Of(k.New())
		if byResource != k || byKind != k || byType != k || err != nil {
			t.Errorf("%s: found as %v, %v, %v (%v)", k.Resource, byResource, byKind, byType, err)
		}
	}
	if For[*corev1.Node]() != kind(t, "Node") {
		t.Error("Node is not found by its type")
	}
	if _, err := Of(&corev1.Pod{}); err == nil {
		t.Error("a kind that is not served is found")
	}
}

func TestStoreKeys(t *testing.T) {
	if got, want := For[*corev1.Secret]().StoreKey(Key{Namespace: "ns", Name: "a"}), "/registry/core/secrets/ns/a"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := For[*kubevirtv1.VirtualMachine]().Prefix(), "/registry/kubevirt.io/virtualmachines/"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, bad := range []string{
		"", "/claims/x", "/registry/core/nodes/", "/registry/core/nodes/a/b", "/registry/core/secrets/a",
		"/registry/core/secrets/a/b/c", "/registry/core/secrets//b", "/registry/nothing/x/y",
	} {
		if k, key, ok := ParseStoreKey(bad); ok {
			t.Errorf("%q was parsed as %s %s", bad, k.Resource, key)
		}
	}
	l, ok := ParseLocation("/registry/example.com/things/ns/x")
	if want := (Location{schema.GroupResource{Group: "example.com", Resource: "things"}, Key{Namespace: "ns", Name: "x"}}); !ok || l != want {
		t.Errorf("an unknown kind is located at %v %v", l, ok)
	}
	if _, ok := ParseLocation("/claims/instance/x"); ok {
		t.Error("a claim is taken for an object")
	}
}

func TestGenerationCountsWhatIsWanted(t *testing.T) {
	k := For[*kubevirtv1.VirtualMachine]()
	old := &kubevirtv1.VirtualMachine{}
	k.BeginGeneration(old)
	for name, c := range map[string]struct {
		edit func(*kubevirtv1.VirtualMachine)
		want int64
	}{
		"nothing":              {func(*kubevirtv1.VirtualMachine) {}, 1},
		"labels":               {func(v *kubevirtv1.VirtualMachine) { v.Labels = map[string]string{"a": "b"} }, 1},
		"status":               {func(v *kubevirtv1.VirtualMachine) { v.Status.Created = true }, 1},
		"spec":                 {func(v *kubevirtv1.VirtualMachine) { v.Spec.RunStrategy = new(kubevirtv1.RunStrategyAlways) }, 2},
		"a client's own count": {func(v *kubevirtv1.VirtualMachine) { v.Generation = 7 }, 1},
	} {
		changed := old.DeepCopy()
		c.edit(changed)
		k.CountGeneration(changed, old)
		if changed.Generation != c.want {
			t.Errorf("%s: generation %d, want %d", name, changed.Generation, c.want)
		}
	}
	node := &corev1.Node{}
	For[*corev1.Node]().BeginGeneration(node)
	busy := &corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true}}
	For[*corev1.Node]().CountGeneration(busy, node)
	if node.Generation != 0 || busy.Generation != 0 {
		t.Error("a kind without generations has one")
	}
}

// Typed objects and those that are only JSON follow the same rules.
func TestDeletionIsOneRule(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for name, c := range map[string]struct {
		obj  Object
		held bool
	}{
		"free":              {&corev1.Secret{}, false},
		"finalizer":         {&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Finalizers: []string{"a/b"}}}, true},
		"machine":           {&kubevirtv1.VirtualMachine{ObjectMeta: metav1.ObjectMeta{Generation: 3}}, false},
		"empty namespace":   {&corev1.Namespace{}, false},
		"namespace":         {&corev1.Namespace{Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}}}, true},
		"namespace by meta": {&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Finalizers: []string{"a/b"}}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := Of(c.obj)
			if err != nil {
				t.Fatal(err)
			}
			c.obj.GetObjectKind().SetGroupVersionKind(k.GVK)
			content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(c.obj)
			if err != nil {
				t.Fatal(err)
			}
			raw := &unstructured.Unstructured{Object: content}
			generation := c.obj.GetGeneration()
			for _, o := range []metav1.Object{c.obj, raw} {
				if IsHeld(o) != c.held {
					t.Errorf("%T: held %v, want %v", o, !c.held, c.held)
				}
				if !MarkDeleted(o, now) || MarkDeleted(o, now.Add(time.Hour)) {
					t.Errorf("%T: marked twice or never", o)
				}
				if at := o.GetDeletionTimestamp(); at == nil || !at.Time.Equal(now.Truncate(time.Second)) || *o.GetDeletionGracePeriodSeconds() != 0 {
					t.Errorf("%T: deleted at %v", o, at)
				}
				if got := o.GetGeneration(); generation > 0 && got != generation+1 || generation == 0 && got != 0 {
					t.Errorf("%T: generation %d after %d", o, got, generation)
				}
			}
			phase, _, _ := unstructured.NestedString(raw.Object, "status", "phase")
			ns, ok := c.obj.(*corev1.Namespace)
			if ok && (ns.Status.Phase != corev1.NamespaceTerminating || phase != string(corev1.NamespaceTerminating)) {
				t.Errorf("phases %q and %q, want Terminating", ns.Status.Phase, phase)
			}
			if !ok && phase != "" {
				t.Errorf("phase %q", phase)
			}
		})
	}
}
