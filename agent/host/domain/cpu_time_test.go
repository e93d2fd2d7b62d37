package domain

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"libvirt.org/go/libvirtxml"
)

// tuned converts a guest that is charged so many thousandths of a CPU, and may use no
// more than limit if that is not empty.
func tuned(t *testing.T, charged int64, limit string, change func(*Input)) *libvirtxml.DomainCPUTune {
	t.Helper()
	in := prepared
	in.VMI, in.Machine, in.CPUMilli = load(t, "typical"), kvmHost, charged
	if limit != "" {
		in.VMI.Spec.Domain.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(limit)}
	}
	if change != nil {
		change(&in)
	}
	out, _, err := Convert(in)
	if err != nil {
		t.Fatal(err)
	}
	return out.CPUTune
}

func TestWeightFollowsTheCharge(t *testing.T) {
	for charged, want := range map[int64]uint{1: 2, 2: 2, 10: 10, 100: 102, 1000: 1024, 2500: 2560, 9765: 9999, 9766: 10000, 64_000: 10000, 1 << 60: 10000} {
		tune := tuned(t, charged, "", nil)
		if tune == nil || tune.Shares == nil || tune.Shares.Value != want || tune.GlobalQuota != nil {
			t.Errorf("charged %d: got %+v, want a weight of %d alone", charged, tune, want)
		}
	}
	if tune := tuned(t, 0, "", nil); tune != nil {
		t.Errorf("charged nothing that is known: got %+v", tune)
	}
}

func TestLimitBecomesAQuota(t *testing.T) {
	for limit, want := range map[string]int64{
		"1": 100_000, "1500m": 150_000, "2": 200_000, "10m": 1000, "1m": 1000, "1n": 1000, "255": 25_500_000, "8E": 100 << 37,
	} {
		tune := tuned(t, 0, limit, nil)
		if tune == nil || tune.GlobalQuota == nil || tune.GlobalQuota.Value != want || tune.GlobalPeriod.Value != 100_000 || tune.Shares != nil {
			t.Errorf("limit %s: got %+v, want %d of every 100000 microseconds", limit, tune, want)
		}
	}
	if tune := tuned(t, 0, "0", nil); tune != nil {
		t.Errorf("a limit of zero is none, got %+v", tune)
	}
}

// Guests with CPUs of their own are not throttled on them.
func TestDedicatedCPUsAreNotShared(t *testing.T) {
	tune := tuned(t, 2000, "2", func(in *Input) { in.VMI.Spec.Domain.CPU.DedicatedCPUPlacement = true })
	if tune.Shares != nil || tune.GlobalQuota != nil || len(tune.VCPUPin) == 0 {
		t.Errorf("got %+v", tune)
	}
}
