package vmi

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"pgregory.net/rapid"
)

func TestBoundedNames(t *testing.T) {
	if got := BoundedName("short", 20); got != "short" {
		t.Errorf("got %q", got)
	}
	if got := BoundedName(strings.Repeat("a", 20), 20); got != strings.Repeat("a", 20) {
		t.Errorf("got %q", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(20, 40).Draw(t, "limit")
		// Names that differ in a letter or two, most of them longer than the limit.
		name := rapid.Custom(func(t *rapid.T) string {
			return strings.Repeat("a", rapid.IntRange(0, 30).Draw(t, "length")) + rapid.StringMatching(`[ab]{0,2}`).Draw(t, "end")
		})
		a, b := name.Draw(t, "a"), name.Draw(t, "b")
		short, other := BoundedName(a, limit), BoundedName(b, limit)
		if len(short) > limit || (a == b) != (short == other) {
			t.Errorf("%q is %q, %q is %q", a, short, b, other)
		}
	})
}

func TestHostnames(t *testing.T) {
	for name, want := range map[string]string{
		"web":                          "web",
		"shop.db.01":                   "shop",
		strings.Repeat("a", 100):       strings.Repeat("a", 63),
		strings.Repeat("a", 62) + "-b": strings.Repeat("a", 62),
	} {
		vmi := &kubevirtv1.VirtualMachineInstance{}
		vmi.Name = name
		if got := Hostname(vmi); got != want || len(validation.IsDNS1123Label(got)) > 0 {
			t.Errorf("%s calls itself %q, want %q", name, got, want)
		}
		vmi.Spec.Hostname = "chosen"
		if got := Hostname(vmi); got != "chosen" {
			t.Errorf("%s calls itself %q, though told otherwise", name, got)
		}
	}
}

func TestNamesTooLongForFiles(t *testing.T) {
	vm, vmi := machine(t), instance(t)
	vm.Name, vmi.Name = strings.Repeat("a", 201), strings.Repeat("a", 201)
	SetNewInstance(defaults(), vmi, early)
	if !reports(ValidateVirtualMachine(defaults(), vm), "metadata.name") || !reports(ValidateInstance(defaults(), vmi), "metadata.name") {
		t.Error("201 letters are let through")
	}
	vm.Name = vm.Name[1:]
	if errs := ValidateVirtualMachine(defaults(), vm); len(errs) > 0 {
		t.Errorf("200 letters are refused: %v", errs.ToAggregate())
	}
}
