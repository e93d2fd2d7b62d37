package pods

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/watch"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"pgregory.net/rapid"

	"virtmesh/agent/vmi/vmitest"
)

// drawInstance draws an instance of any specification in any state.
func drawInstance(t *rapid.T) *kubevirtv1.VirtualMachineInstance {
	vmi := vmitest.Instance(t).DeepCopy()
	vmi.Namespace = "ns"
	vmi.Name = strings.Repeat("x", rapid.SampledFrom([]int{1, 9, 62, 63, 64, 168, 171, 230, 232, 233, 234, 252}).Draw(t, "length"))
	if long := len(vmi.Name); long > 9 {
		vmi.Name = vmi.Name[:long-9] + rapid.SampledFrom([]string{"xxxxxxxxx", "---------", "x.x.x.x.x"}).Draw(t, "end") + "y"
	}
	vmi.UID = types.UID(rapid.StringMatching(`[0-9a-f]{8}`).Draw(t, "uid"))
	vmi.ResourceVersion = "7"
	vmi.Status.Phase = rapid.SampledFrom([]kubevirtv1.VirtualMachineInstancePhase{
		"", kubevirtv1.Pending, kubevirtv1.Scheduling, kubevirtv1.Scheduled, kubevirtv1.Running, kubevirtv1.Succeeded, kubevirtv1.Failed, kubevirtv1.Unknown,
	}).Draw(t, "phase")
	vmi.Status.NodeName = rapid.SampledFrom([]string{"", "host1", "host2"}).Draw(t, "node")
	if rapid.Bool().Draw(t, "labels") {
		vmi.Labels = map[string]string{"app": "web", kubevirtv1.AppLabel: "mine"}
	}
	if rapid.Bool().Draw(t, "ready") {
		vmi.Status.Conditions = []kubevirtv1.VirtualMachineInstanceCondition{{Type: kubevirtv1.VirtualMachineInstanceReady, Status: corev1.ConditionTrue}}
	}
	return vmi
}

// A Pod has names and labels that are valid and its own, and leads back to its instance, which
// making it does not change.
func TestEveryInstanceHasAPod(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		vmi := drawInstance(rt)
		before := vmi.DeepCopy()
		pod := Of(vmi)
		pod.Labels["written"], pod.Annotations["written"] = "", ""
		for _, list := range []corev1.ResourceList{pod.Spec.Containers[0].Resources.Requests, pod.Spec.Containers[0].Resources.Limits} {
			for name := range list {
				delete(list, name)
			}
		}
		if !reflect.DeepEqual(before, vmi) {
			rt.Fatalf("the instance is %+v, was %+v", vmi, before)
		}
		pod = Of(vmi)
		if bad := validation.IsDNS1123Subdomain(pod.Name); len(bad) > 0 || !strings.HasPrefix(pod.Name, pod.GenerateName) {
			rt.Fatalf("%q: %v", pod.Name, bad)
		}
		for name, value := range pod.Labels {
			if bad := validation.IsValidLabelValue(value); len(bad) > 0 {
				rt.Fatalf("%s=%s: %v", name, value, bad)
			}
		}
		if name, whole := instanceOf(pod.Name); whole != (len(vmi.Name) < longFrom) || whole && name != vmi.Name {
			rt.Fatalf("%q is the Pod of %q, %v", pod.Name, name, whole)
		}
		other := vmi.DeepCopy()
		other.UID += "0"
		if again := Of(other); again.UID == pod.UID || again.Labels[kubevirtv1.CreatedByLabel] == pod.Labels[kubevirtv1.CreatedByLabel] {
			rt.Fatalf("another instance of the same name has the same Pod: %+v", again.ObjectMeta)
		}
		if owner := metav1.GetControllerOf(pod); owner == nil || owner.UID != vmi.UID || pod.Labels[kubevirtv1.AppLabel] != "virt-launcher" {
			rt.Fatalf("%+v", pod.ObjectMeta)
		}
		ready := 0
		for _, c := range pod.Status.ContainerStatuses {
			if c.Ready {
				ready++
			}
		}
		if ready > 0 && pod.Status.Phase != corev1.PodRunning || len(pod.Status.ContainerStatuses) != len(pod.Spec.Containers) {
			rt.Fatalf("%d of %d ready while %s", ready, len(pod.Spec.Containers), pod.Status.Phase)
		}
		if rows, err := row(pod, pod, pod.Name, ""); err != nil || len(rows) != len(columns) {
			rt.Fatalf("%d cells, %v", len(rows), err)
		}
	})
}

// Whatever happens to the instances, and whether the client began with a list or without, it ends
// with the Pods that a list has then.
func TestAWatchEndsWithWhatAListHas(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		opts := &metainternalversion.ListOptions{
			LabelSelector: rapid.SampledFrom([]labels.Selector{nil, labels.Everything(), labels.SelectorFromSet(labels.Set{"app": "web"})}).Draw(rt, "labels"),
			FieldSelector: rapid.SampledFrom([]fields.Selector{nil, fields.SelectorFromSet(fields.Set{"spec.nodeName": "host1"}), fields.SelectorFromSet(fields.Set{"status.phase": "Running"})}).Draw(rt, "fields"),
		}
		stored, has := map[string]*kubevirtv1.VirtualMachineInstance{}, map[string]bool{}
		f := follower{opts: opts, told: map[types.UID]bool{}}
		number := 0
		send := func(kind watch.EventType, vmi *kubevirtv1.VirtualMachineInstance) {
			out, keep := f.follow(watch.Event{Type: kind, Object: vmi})
			if !keep {
				return
			}
			name := out.Object.(*corev1.Pod).Name
			if out.Type == watch.Added && has[name] {
				rt.Fatalf("%s is added again", name)
			}
			has[name] = out.Type != watch.Deleted
		}
		listed := rapid.Bool().Draw(rt, "listed")
		change := func(live bool) {
			slot := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "instance")
			old := stored[slot]
			if old != nil && rapid.IntRange(0, 2).Draw(rt, "deleted") == 0 {
				delete(stored, slot)
				if live {
					send(watch.Deleted, old)
				}
				return
			}
			vmi := drawInstance(rt)
			vmi.Name = slot
			kind := watch.Modified
			if old == nil {
				number++
				kind, vmi.UID = watch.Added, types.UID(fmt.Sprint(number))
			} else {
				vmi.UID = old.UID
			}
			stored[slot] = vmi
			if live {
				send(kind, vmi)
			}
		}
		for range rapid.IntRange(0, 4).Draw(rt, "before") {
			change(false)
		}
		for _, vmi := range stored {
			switch pod := Of(vmi); {
			case !listed:
				send(watch.Added, vmi)
			case matches(opts, pod):
				has[pod.Name] = true
			}
		}
		for range rapid.IntRange(0, 8).Draw(rt, "after") {
			change(true)
		}
		var got, want []string
		for name, there := range has {
			if there {
				got = append(got, name)
			}
		}
		for _, vmi := range stored {
			if pod := Of(vmi); matches(opts, pod) {
				want = append(want, pod.Name)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			rt.Fatalf("the client has %q, a list %q", got, want)
		}
	})
}

// A guest that would be lost is not evicted before it has been moved.
func TestMustStay(t *testing.T) {
	t.Parallel()
	for strategy, want := range map[kubevirtv1.EvictionStrategy]bool{
		"": false, kubevirtv1.EvictionStrategyNone: false, kubevirtv1.EvictionStrategyLiveMigrateIfPossible: false,
		kubevirtv1.EvictionStrategyLiveMigrate: true, kubevirtv1.EvictionStrategyExternal: true,
	} {
		vmi := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "vm"}}
		if strategy != "" {
			vmi.Spec.EvictionStrategy = &strategy
		}
		for phase, runs := range map[kubevirtv1.VirtualMachineInstancePhase]bool{kubevirtv1.Running: true, kubevirtv1.Scheduling: true, kubevirtv1.Failed: false, kubevirtv1.Succeeded: false} {
			vmi.Status.Phase = phase
			if got := mustStay(Of(vmi), vmi); (got != "") != (want && runs) {
				t.Errorf("%q, %s: %q", strategy, phase, got)
			}
		}
	}
}
