package vm

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
)

func TestInstanceIsMadeFromTheTemplate(t *testing.T) {
	run(t, func(b *bench) {
		before := b.store.Commits()
		b.create(kubevirtv1.RunStrategyAlways)
		if n := b.store.Commits() - before; n != 2 {
			b.Errorf("%d transactions, want that of the user and one for instance, status and event", n)
		}
		vm, vmi := b.vm(), b.must()
		if !metav1.IsControlledBy(vmi, vm) || vmi.Labels["app"] != "web" || vmi.Annotations["note"] != "kept" {
			b.Errorf("metadata %+v", vmi.ObjectMeta)
		}
		for _, f := range []string{kubevirtv1.VirtualMachineInstanceFinalizer, kubevirtv1.VirtualMachineControllerFinalizer} {
			if !objects.HasFinalizer(vmi, f) {
				b.Errorf("finalizer %s is missing", f)
			}
		}
		if s := vmi.Status; vmi.Spec.Domain.Firmware.UUID == "" || s.Phase != kubevirtv1.Pending || s.RuntimeUser == 0 {
			b.Errorf("firmware UUID %q, status %+v", vmi.Spec.Domain.Firmware.UUID, s)
		}
		if !objects.HasFinalizer(vm, kubevirtv1.VirtualMachineControllerFinalizer) {
			b.Error("the machine has no finalizer")
		}
		if !vm.Status.Created || vm.Status.Ready || vm.Status.ObservedGeneration != 1 || vm.Status.DesiredGeneration != 1 || vm.Status.RunStrategy != kubevirtv1.RunStrategyAlways {
			b.Errorf("status %+v", vm.Status)
		}
		b.expect(kubevirtv1.VirtualMachineStatusStarting)
		b.phase(kubevirtv1.Running)
		b.expect(kubevirtv1.VirtualMachineStatusRunning)
		if vm := b.vm(); !vm.Status.Ready || condition(vm, kubevirtv1.VirtualMachineReady).Status != corev1.ConditionTrue {
			b.Errorf("status %+v", vm.Status)
		}
	})
}

func TestChangesOfTheTemplate(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways)
		b.phase(kubevirtv1.Running)
		first := b.must().UID
		b.edit(func(vm *kubevirtv1.VirtualMachine) {
			vm.Spec.Template.Spec.NodeSelector = map[string]string{"zone": "a"}
		})
		if vmi := b.must(); vmi.Spec.NodeSelector["zone"] != "a" || condition(b.vm(), kubevirtv1.VirtualMachineRestartRequired) != nil {
			b.Errorf("a change that needs no restart: %v, %+v", vmi.Spec.NodeSelector, b.vm().Status.Conditions)
		}
		if s := b.vm().Status; s.ObservedGeneration != 2 || s.DesiredGeneration != 2 {
			b.Errorf("generations %d and %d, want 2", s.ObservedGeneration, s.DesiredGeneration)
		}
		b.edit(func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Template.Spec.Domain.CPU = &kubevirtv1.CPU{Cores: 4} })
		if c := condition(b.vm(), kubevirtv1.VirtualMachineRestartRequired); c == nil || b.must().Spec.Domain.CPU.Cores != 1 {
			b.Errorf("a change that needs a restart: %+v", c)
		}
		b.ask(stopReq(first), startReq(nil))
		b.phase(kubevirtv1.Succeeded)
		if c := condition(b.vm(), kubevirtv1.VirtualMachineRestartRequired); c != nil || b.must().Spec.Domain.CPU.Cores != 4 {
			b.Errorf("after the restart: %+v", c)
		}
	})
}

// What means the same needs no restart, however it is written.
func TestEqualTemplatesNeedNoRestart(t *testing.T) {
	guest, bytes := resource.MustParse("128Mi"), resource.MustParse("134217728")
	yes := true
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways, func(vm *kubevirtv1.VirtualMachine) {
			vm.Spec.Template.Spec.Domain.Memory = &kubevirtv1.Memory{Guest: &guest}
		})
		b.phase(kubevirtv1.Running)
		b.edit(func(vm *kubevirtv1.VirtualMachine) {
			d := &vm.Spec.Template.Spec.Domain
			d.Memory.Guest, d.CPU = &bytes, &kubevirtv1.CPU{Cores: 1}
			d.Devices.AutoattachMemBalloon = &yes
		})
		if c := condition(b.vm(), kubevirtv1.VirtualMachineRestartRequired); c != nil {
			b.Errorf("the same template: %+v", c)
		}
		if got := b.vm().Status.ObservedGeneration; got != 2 {
			b.Errorf("observed generation %d, want 2", got)
		}
		more := resource.MustParse("129Mi")
		b.edit(func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Template.Spec.Domain.Memory.Guest = &more })
		if c := condition(b.vm(), kubevirtv1.VirtualMachineRestartRequired); c == nil {
			b.Error("more memory needs no restart")
		}
		b.edit(func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Template.Spec.Domain.Memory.Guest = &guest })
		if c := condition(b.vm(), kubevirtv1.VirtualMachineRestartRequired); c != nil {
			b.Errorf("taken back: %+v", c)
		}
	})
}

// Labels and annotations of the template reach the instance that runs.
func TestLabelsReachTheInstance(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways)
		b.phase(kubevirtv1.Running, func(vmi *kubevirtv1.VirtualMachineInstance) {
			vmi.Labels = map[string]string{"app": "web", kubevirtv1.NodeNameLabel: "h1"}
		})
		b.edit(func(vm *kubevirtv1.VirtualMachine) {
			vm.Spec.Template.ObjectMeta.Labels = map[string]string{"tier": "front"}
			vm.Spec.Template.ObjectMeta.Annotations = map[string]string{"note": "changed"}
		})
		vmi := b.must()
		if vmi.Labels["tier"] != "front" || vmi.Labels["app"] != "web" || vmi.Labels[kubevirtv1.NodeNameLabel] != "h1" || vmi.Annotations["note"] != "changed" {
			b.Errorf("metadata %+v", vmi.ObjectMeta)
		}
		if c := condition(b.vm(), kubevirtv1.VirtualMachineRestartRequired); c != nil {
			b.Errorf("labels need no restart: %+v", c)
		}
	})
}
