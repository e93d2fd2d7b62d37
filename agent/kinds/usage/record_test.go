package usage

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

func amounts(pairs ...string) Amounts {
	a := Amounts{}
	for i := 0; i < len(pairs); i += 2 {
		a[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return a
}

// The refusals are those of Kubernetes, word for word: of the names that the quota has, and only
// of what is too much.
func TestCharge(t *testing.T) {
	for name, c := range map[string]struct {
		limits    map[string]Amounts
		more      Amounts
		uncounted bool
		want      string
	}{
		"no quota names it": {map[string]Amounts{"q": amounts("count/configmaps", "0")}, amounts("count/secrets", "1"), false, ""},
		"the last one":      {map[string]Amounts{"q": amounts("count/secrets", "4")}, amounts("count/secrets", "1"), false, ""},
		"one too many": {
			map[string]Amounts{"q": amounts("count/secrets", "3", "pods", "0")}, amounts("count/secrets", "1"), false,
			"exceeded quota: q, requested: count/secrets=1, used: count/secrets=3, limited: count/secrets=3",
		},
		"by its short name": {
			map[string]Amounts{"q": amounts("secrets", "3")}, amounts("count/secrets", "1"), false,
			"exceeded quota: q, requested: secrets=1, used: secrets=3, limited: secrets=3",
		},
		"the second quota": {
			map[string]Amounts{"a": amounts("secrets", "9"), "b": amounts("secrets", "2")}, amounts("count/secrets", "1"), false,
			"exceeded quota: b, requested: secrets=1, used: secrets=3, limited: secrets=2",
		},
		"two resources": {
			map[string]Amounts{"q": amounts("requests.cpu", "1", "memory", "2Gi", "secrets", "9")},
			amounts("requests.cpu", "1500m", "requests.memory", "3Gi", "count/secrets", "1"), false,
			"exceeded quota: q, requested: memory=3Gi,requests.cpu=1500m, used: memory=0,requests.cpu=0, limited: memory=2Gi,requests.cpu=1",
		},
		"less of what is too much": {map[string]Amounts{"q": amounts("secrets", "1")}, amounts("count/secrets", "-1"), false, ""},
		"not counted yet": {
			map[string]Amounts{"q": amounts("secrets", "9", "configmaps", "9")}, amounts("count/secrets", "1"), true,
			"status unknown for quota: q, resources: secrets",
		},
		"less of what is not counted": {map[string]Amounts{"q": amounts("secrets", "9")}, amounts("count/secrets", "-1"), true, ""},
	} {
		r := Record{Limits: c.limits, Used: amounts("count/secrets", "3")}
		if !c.uncounted {
			r.Counts = 1
		}
		got, err := "", r.Charge(c.more)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		want := amounts("count/secrets", "3")
		if c.want == "" {
			want = Add(want, c.more)
		}
		if left := Subtract(want, r.Used); len(left) > 0 {
			t.Errorf("%s: %v used, want %v", name, r.Used, want)
		}
	}
}

func TestWhatObjectsUse(t *testing.T) {
	class, guest := "fast", resource.MustParse("1Gi")
	claim := &corev1.PersistentVolumeClaim{}
	claim.Spec.StorageClassName = &class
	claim.Spec.Resources.Requests = amounts("storage", "5Gi")
	instance := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	instance.Spec.Domain.Memory = &kubevirtv1.Memory{Guest: &guest}
	instance.Spec.Domain.CPU = &kubevirtv1.CPU{Cores: 4, Sockets: 1, Threads: 1}
	ended := instance.DeepCopy()
	ended.Status.Phase = kubevirtv1.Succeeded
	for name, c := range map[string]struct {
		kind schema.GroupResource
		obj  runtime.Object
		want Amounts
	}{
		"secret": {schema.GroupResource{Resource: "secrets"}, nil, amounts("count/secrets", "1")},
		"claim": {claims, claim, amounts("count/persistentvolumeclaims", "1", "requests.storage", "5Gi",
			"fast.storageclass.storage.k8s.io/requests.storage", "5Gi", "fast.storageclass.storage.k8s.io/persistentvolumeclaims", "1")},
		"unreadable claim": {claims, nil, amounts("count/persistentvolumeclaims", "1")},
		"ended instance":   {instances, ended, amounts("count/virtualmachineinstances.kubevirt.io", "1")},
	} {
		if got := Of(c.kind, c.obj); len(Subtract(got, c.want)) > 0 || len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	used := Of(instances, instance)
	cpu, memory := used[corev1.ResourceRequestsCPU], used[corev1.ResourceRequestsMemory]
	if cpu.String() != "400m" || memory.Cmp(guest) <= 0 || memory.Cmp(resource.MustParse("2Gi")) > 0 {
		t.Errorf("an instance of 4 CPUs and 1 GiB uses %s and %s, want a tenth of its CPUs, and its memory with QEMU's", cpu.String(), memory.String())
	}
}
