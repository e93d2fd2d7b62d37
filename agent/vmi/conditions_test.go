package vmi

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

var (
	early = time.Date(2025, 3, 1, 12, 0, 0, 700_000_000, time.UTC)
	late  = early.Add(time.Minute)
)

func TestPhaseTimes(t *testing.T) {
	vmi := &kubevirtv1.VirtualMachineInstance{}
	SetPhase(vmi, kubevirtv1.Pending, early)
	SetPhase(vmi, kubevirtv1.Pending, late)
	SetPhase(vmi, kubevirtv1.Running, late)
	times := vmi.Status.PhaseTransitionTimestamps
	if vmi.Status.Phase != kubevirtv1.Running || len(times) != 2 {
		t.Fatalf("phase %s with the moves %v", vmi.Status.Phase, times)
	}
	if at := times[0].PhaseTransitionTimestamp.Time; !at.Equal(early.Truncate(time.Second)) {
		t.Errorf("moved to Pending at %v", at)
	}
	if at := times[1].PhaseTransitionTimestamp.Time; !at.Equal(late.Truncate(time.Second)) {
		t.Errorf("moved to Running at %v", at)
	}
}

func TestConditionTransitions(t *testing.T) {
	const ready = kubevirtv1.VirtualMachineInstanceReady
	vmi := &kubevirtv1.VirtualMachineInstance{}
	for _, step := range []struct {
		name     string
		on       bool
		reason   string
		now      time.Time
		changeAt time.Time
	}{
		{"new", false, "A", early, early},
		{"another reason", false, "B", late, early},
		{"another status", true, "", late, late},
	} {
		SetCondition(vmi, NewCondition(ready, step.on, step.reason, ""), step.now)
		c := Condition(vmi, ready)
		if len(vmi.Status.Conditions) != 1 || c.Reason != step.reason || HasCondition(vmi, ready) != step.on {
			t.Errorf("%s: conditions %+v", step.name, vmi.Status.Conditions)
		}
		if !c.LastTransitionTime.Time.Equal(step.changeAt.Truncate(time.Second)) {
			t.Errorf("%s: changed at %v, want %v", step.name, c.LastTransitionTime, step.changeAt)
		}
	}
	SetCondition(vmi, NewCondition(kubevirtv1.VirtualMachineInstancePaused, true, "", ""), late)
	SetCondition(vmi, NewCondition(kubevirtv1.VirtualMachineInstanceSynchronized, true, "", ""), late)
	DropConditions(vmi, ready, kubevirtv1.VirtualMachineInstancePaused)
	if len(vmi.Status.Conditions) != 1 || Condition(vmi, ready) != nil || HasCondition(vmi, kubevirtv1.VirtualMachineInstancePaused) {
		t.Errorf("left: %+v", vmi.Status.Conditions)
	}
}

func TestMachineConditions(t *testing.T) {
	vm := &kubevirtv1.VirtualMachine{}
	failure := kubevirtv1.VirtualMachineCondition{Type: kubevirtv1.VirtualMachineFailure, Status: corev1.ConditionTrue, Message: "one"}
	SetMachineCondition(vm, failure, early)
	failure.Message = "two"
	SetMachineCondition(vm, failure, late)
	if c := vm.Status.Conditions; len(c) != 1 || c[0].Message != "two" || !c[0].LastTransitionTime.Time.Equal(early.Truncate(time.Second)) {
		t.Errorf("conditions %+v", c)
	}
	failure.Status = corev1.ConditionFalse
	SetMachineCondition(vm, failure, late)
	if c := vm.Status.Conditions[0]; !c.LastTransitionTime.Time.Equal(late.Truncate(time.Second)) {
		t.Errorf("condition %+v", c)
	}
	SetMachineCondition(vm, kubevirtv1.VirtualMachineCondition{Type: kubevirtv1.VirtualMachineReady}, late)
	DropMachineConditions(vm, kubevirtv1.VirtualMachineFailure)
	if c := vm.Status.Conditions; len(c) != 1 || c[0].Type != kubevirtv1.VirtualMachineReady {
		t.Errorf("left: %+v", c)
	}
}
