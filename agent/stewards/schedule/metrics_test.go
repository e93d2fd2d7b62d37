package schedule

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// decisions returns the decisions of the first steward by result, those that
// occurred.
func (b *bench) decisions() map[string]int {
	b.Helper()
	all, err := b.figures[0].Gather()
	if err != nil {
		b.Fatal(err)
	}
	out := map[string]int{}
	for _, f := range all {
		for _, m := range f.GetMetric() {
			if n := int(m.GetCounter().GetValue()); n > 0 && f.GetName() == "virtmesh_placement_decisions_total" {
				out[m.GetLabel()[0].GetValue()] = n
			}
		}
	}
	return out
}

// latency returns how many instances were placed, and how long that took
// together.
func (b *bench) latency() (n uint64, sum time.Duration) {
	b.Helper()
	all, err := b.figures[0].Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == "virtmesh_placement_latency_seconds" {
			h := f.GetMetric()[0].GetHistogram()
			return h.GetSampleCount(), time.Duration(h.GetSampleSum() * float64(time.Second))
		}
	}
	b.Fatal("no latency")
	return 0, 0
}

func TestDecisionsAreCounted(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 4*gib)
		b.host("h2", 8*gib)
		b.offers.set(func() { b.offers.by["h2"] = claims.Offer{Reason: "memory is really used"} })
		b.create("a")
		b.expectHost("a", "h1")
		want := map[string]int{resultPlaced: 1, resultRefusedOffer: 1}
		if got := b.decisions(); fmt.Sprint(got) != fmt.Sprint(want) {
			b.Errorf("decisions %v, want %v", got, want)
		}
		b.create("late", func(vmi *kubevirtv1.VirtualMachineInstance) {
			vmi.Spec.Volumes = []kubevirtv1.Volume{{Name: "v", VolumeSource: kubevirtv1.VolumeSource{
				DataVolume: &kubevirtv1.DataVolumeSource{Name: "none"},
			}}}
		})
		if got := b.decisions()[resultHeld]; got == 0 {
			b.Error("an instance without its volume was not counted as held")
		}
	})
}

// TestLatencyIncludesTheWait: an instance that waited an hour for room was
// placed in an hour, and one that did not in no time.
func TestLatencyIncludesTheWait(t *testing.T) {
	run(t, func(b *bench) {
		b.create("a")
		time.Sleep(time.Hour)
		if b.decisions()[resultUnschedulable] == 0 {
			b.Errorf("decisions %v", b.decisions())
		}
		b.host("h1", 8*gib)
		time.Sleep(time.Second)
		b.expectHost("a", "h1")
		if n, sum := b.latency(); n != 1 || sum < time.Hour || sum > time.Hour+time.Minute {
			b.Errorf("%d placed in %v", n, sum)
		}
		_, before := b.latency()
		b.create("b")
		b.expectHost("b", "h1")
		if n, sum := b.latency(); n != 2 || sum-before > time.Second {
			b.Errorf("%d placed, the second in %v", n, sum-before)
		}
	})
}

func TestFailedClaimsByCause(t *testing.T) {
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	m.failed(fmt.Errorf("place: %w", &raftstore.ConstraintError{Name: "capacity", Reason: "full"}))
	m.failed(errors.New("no leader"))
	if c, e := testutil.ToFloat64(m.decisions.WithLabelValues(resultConflict)), testutil.ToFloat64(m.decisions.WithLabelValues(resultError)); c != 1 || e != 1 {
		t.Errorf("%v conflicts and %v errors, want one of each", c, e)
	}
}

// TestTakenUpAnew: an instance that takes the name of another one does not
// inherit its wait.
func TestTakenUpAnew(t *testing.T) {
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	key := objects.Key{Namespace: "ns", Name: "a"}
	m.noteStart(key, "old")
	first := m.taken[key].at
	m.noteStart(key, "old")
	if m.taken[key].at != first {
		t.Error("a second try began anew")
	}
	m.noteStart(key, "new")
	if m.taken[key].uid != "new" {
		t.Error("the new instance counts as the old one")
	}
	m.forgetInstance(key)
	if len(m.taken) != 0 {
		t.Errorf("left: %v", m.taken)
	}
}
