package vmi

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"pgregory.net/rapid"
)

func TestSameAtStart(t *testing.T) {
	yes, no := true, false
	for name, tc := range map[string]struct {
		edit func(*kubevirtv1.VirtualMachineInstanceSpec)
		same bool
	}{
		"nothing":         {func(*spec) {}, true},
		"another unit":    {func(s *spec) { q := resource.MustParse("134217728"); s.Domain.Memory.Guest = &q }, true},
		"more memory":     {func(s *spec) { q := resource.MustParse("134217729"); s.Domain.Memory.Guest = &q }, false},
		"a default":       {func(s *spec) { s.Domain.Devices.AutoattachMemBalloon = &yes; s.Domain.CPU.Threads = 1 }, true},
		"not the default": {func(s *spec) { s.Domain.Devices.AutoattachMemBalloon = &no }, false},
		"a disk's flag": {func(s *spec) {
			s.Domain.Devices.Disks[0].Shareable = &no
			s.Domain.Devices.Disks[1].CDRom.ReadOnly = &yes
		}, true},
		"another CPU": {func(s *spec) { s.Domain.CPU.Cores = 1 }, false},
		"a feature":   {func(s *spec) { s.Domain.CPU.Features[0].Policy = "" }, true},
		"its policy":  {func(s *spec) { s.Domain.CPU.Features[0].Policy = "forbid" }, false},
		"where it may run": {func(s *spec) {
			s.NodeSelector, s.Tolerations = map[string]string{"a": "b"}, []corev1.Toleration{{Key: "x"}}
		}, true},
		"started paused": {func(s *spec) { p := kubevirtv1.StartStrategyPaused; s.StartStrategy = &p }, true},
		"another image":  {func(s *spec) { s.Volumes[0].ContainerDisk.Image = "registry/tiny:2" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := instance(t), instance(t)
			tc.edit(&b.Spec)
			if got := defaults().SameAtStart(a, b); got != tc.same {
				t.Errorf("got %v, want %v", got, tc.same)
			}
			if got := defaults().SameAtStart(b, a); got != tc.same {
				t.Errorf("the other way round: got %v, want %v", got, tc.same)
			}
		})
	}
}

// An instance is the same as itself with its defaults, and comparing changes neither.
func TestSameAsItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := bare()
		a.Spec.Domain.Memory = &kubevirtv1.Memory{}
		if rapid.Bool().Draw(t, "huge") {
			a.Spec.Domain.Memory.Hugepages = &kubevirtv1.Hugepages{PageSize: rapid.SampledFrom([]string{"2Mi", "2048Ki", "x"}).Draw(t, "page")}
		}
		b := a.DeepCopy()
		SetNewInstance(defaults(), b, early)
		before := b.DeepCopy()
		if !defaults().SameAtStart(a, b) {
			t.Error("its own defaults make another one of it")
		}
		if before.Spec.Domain.Devices.AutoattachMemBalloon != b.Spec.Domain.Devices.AutoattachMemBalloon {
			t.Error("comparing has changed it")
		}
	})
}
